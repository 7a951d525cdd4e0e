//! What sellers earn and coupons cost, and how it comes to where it can be paid out.

use super::*;

/// No sum of money passes this.
const SUM_MAX: u128 = u64::MAX as u128;

impl Shadow {
    /// Looks at the next accounts, from the first again when all were seen, and moves what is
    /// available. It ends with the first whose party is at home here: as all are.
    pub(super) fn sweep(&mut self, count: u32, record: u64) -> Verdict {
        let mut verdict = Verdict::done(0, Vec::new());
        for _ in 0..count {
            let Some(&account) = self.swept.get(self.next_swept) else {
                self.next_swept = 0;
                break;
            };
            self.next_swept += 1;
            if let Some((amount, to)) = self.sweep_account(account, record) {
                verdict.amount = amount.unsigned_abs();
                verdict.statement = Some(to);
                verdict.swept.swept = 1.into();
                verdict.swept.seller = account.0.0.into();
                verdict.swept.currency = account.1.numeric().into();
                verdict.swept.owed = u8::from(amount < 0);
                break;
            }
        }
        verdict
    }

    /// Credits less debits, without what was earned in this step and the one before: how much,
    /// and the account that got or gave it.
    fn sweep_account(&mut self, account: AccountName, record: u64) -> Option<(i128, AccountName)> {
        let earned = self.earned.get(&account);
        let pending: i128 = earned
            .into_iter()
            .flatten()
            .filter(|(step, _)| **step + 1 >= self.step())
            .map(|(_, amount)| amount)
            .sum();
        let amount = self.balance(account) - pending;
        let units = amount.unsigned_abs();
        let mut sums = self.sums(account);
        match amount > 0 {
            true => sums.debits += units,
            false => sums.credits += units,
        }
        if amount == 0 || sums.debits.max(sums.credits) > SUM_MAX {
            return None;
        }
        self.accounts.insert(account, sums);
        for kind in [AccountKind::Settlement, AccountKind::Suspense] {
            let name = (account.0, account.1, kind);
            let to = self.accounts.entry(name).or_default();
            let sum = if amount > 0 { &mut to.credits } else { &mut to.debits };
            if *sum + units <= SUM_MAX && !to.is_closed {
                *sum += units;
                self.moved.entry(name).or_default().push(record);
                return Some((amount, name));
            }
        }
        panic!("the tests fill no suspense account");
    }
}
