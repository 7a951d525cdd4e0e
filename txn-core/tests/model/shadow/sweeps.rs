//! What sellers earn, and how it comes to where it can be paid out.

use super::*;

/// No sum of money passes this.
const SUM_MAX: u128 = u64::MAX as u128;

impl Shadow {
    /// Looks at the next sellers' accounts, from the first again when all were seen, and moves
    /// what is available. Returns how many accounts gave or got something.
    pub(super) fn sweep(&mut self, count: u32) -> u64 {
        let mut swept = 0;
        for _ in 0..count {
            let Some(&payable) = self.sellers.get(self.next_seller) else {
                self.next_seller = 0;
                break;
            };
            self.next_seller += 1;
            swept += u64::from(self.sweep_account(payable));
        }
        swept
    }

    /// Credits less debits, without what was earned in this step and the one before.
    fn sweep_account(&mut self, payable: AccountName) -> bool {
        let earned = self.earned.get(&payable);
        let pending: i128 = earned
            .into_iter()
            .flatten()
            .filter(|(step, _)| **step + 1 >= self.step())
            .map(|(_, amount)| amount)
            .sum();
        let amount = self.balance(payable) - pending;
        let units = amount.unsigned_abs();
        let mut sums = self.accounts[&payable];
        match amount > 0 {
            true => sums.debits += units,
            false => sums.credits += units,
        }
        if amount == 0 || sums.debits.max(sums.credits) > SUM_MAX {
            return false;
        }
        self.accounts.insert(payable, sums);
        for kind in [AccountKind::Settlement, AccountKind::Suspense] {
            let account = self.accounts.entry((payable.0, payable.1, kind)).or_default();
            let sum = if amount > 0 { &mut account.credits } else { &mut account.debits };
            if *sum + units <= SUM_MAX {
                *sum += units;
                return true;
            }
        }
        panic!("the tests fill no suspense account");
    }
}
