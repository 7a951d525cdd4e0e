//! Pages of accounts and of items: one shard's rows, then the next one's.
//!
//! Where a page ended is said by the name of its last row, not by its place: a row keeps its name
//! when a shard is made again of its log, and its place among others of its kind. So rows that
//! come meanwhile are on a later page or on none, and none is on two.

use model::reply::{AccountName, List, Listed};
use model::{AccountKind, AccountView, Currency, ItemId, ItemView, Party, Realm, ShardId};
use node::SubmitError;

use crate::answer::Problem;
use crate::route::{kind_of, number};
use crate::shards::{Shards, add_items};

/// The most rows of a page.
pub(crate) const ROWS_MAX: usize = 10_000;
/// Rows of a page unless a request says otherwise.
const ROWS: usize = 100;
/// The most parts that rows are read in: there are no more shards.
const PARTS_MAX: u16 = 256;

/// A page of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowsPage {
    pub rows: Rows,
    /// Where it begins; `None`: with the first.
    pub from: Option<Cursor>,
    /// How many at most, 1 to [`ROWS_MAX`].
    pub limit: usize,
    /// Which of so many parts.
    pub part: (u16, u16),
}

/// Which rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// Accounts of a kind.
    Accounts(AccountKind),
    Items,
}

/// Where a page ended: behind a row of a shard, or before its first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    shard: ShardId,
    behind: Option<Behind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Account(AccountName),
    Item(ItemId),
}

/// What a page came to.
pub(crate) enum Found {
    Accounts(Vec<AccountView>),
    Items(Vec<ItemView>),
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.shard.0)?;
        match self.behind {
            None => Ok(()),
            Some(Behind::Account((party, currency, kind))) => {
                write!(f, "-{party}-{}-{}", currency.code(), kind.word())
            }
            Some(Behind::Item(item)) => write!(f, "-{item}"),
        }
    }
}

impl Cursor {
    fn parse(text: &str, rows: Rows) -> Option<Cursor> {
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let mut parts = text.split('-');
        let shard = parts.next().filter(|text| digits(text))?.parse().ok()?;
        let key = match parts.next() {
            None => return Some(Cursor { shard: ShardId(shard), behind: None }),
            Some(key) => Some(key).filter(|key| digits(key))?.parse().ok()?,
        };
        let behind = match rows {
            Rows::Items => Behind::Item(ItemId(key)),
            Rows::Accounts(_) => {
                let currency = Currency::from_code(parts.next()?)?;
                let kind = AccountKind::from_word(parts.next()?)?;
                Behind::Account((Party(key), currency, kind))
            }
        };
        let is_whole = parts.next().is_none();
        is_whole.then_some(Cursor { shard: ShardId(shard), behind: Some(behind) })
    }

    /// A cursor that no page ended with.
    fn refused(text: &str) -> Problem {
        Problem::bad_path("from", text, "the `next` of a page like this one")
    }
}

impl RowsPage {
    /// `?limit=`, `&from=`, `&part=`, and of accounts `&kind=`.
    pub(crate) fn parse(rows: Rows, query: Option<&str>) -> Result<RowsPage, Problem> {
        let mut page = RowsPage { rows, from: None, limit: ROWS, part: (0, 1) };
        let mut from = None;
        for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            match (pair.split_once('=').unwrap_or((pair, "")), &mut page.rows) {
                (("from", cursor), _) => from = Some(cursor),
                (("limit", text), _) => page.limit = limit(text)?,
                (("part", text), _) => page.part = part(text)?,
                (("kind", word), Rows::Accounts(kind)) => {
                    *kind = kind_of(word)?;
                    if kind.is_sharded() {
                        let expected = "`main`, `settlement`, `suspense` or `deposit`: every \
                                        shard has a part of the others";
                        return Err(Problem::bad_path("kind", word, expected));
                    }
                }
                ((name, _), Rows::Accounts(_)) => {
                    let expected = "a parameter; `kind`, `limit`, `from` and `part` are";
                    return Err(Problem::bad_path(name, name, expected));
                }
                ((name, _), Rows::Items) => {
                    let expected = "a parameter; `limit`, `from` and `part` are";
                    return Err(Problem::bad_path(name, name, expected));
                }
            }
        }
        if let Some(text) = from {
            let cursor = Cursor::parse(text, page.rows);
            let cursor = cursor.filter(|cursor| cursor.shard.0 % page.part.1 == page.part.0);
            page.from = Some(cursor.ok_or_else(|| Cursor::refused(text))?);
        }
        Ok(page)
    }
}

fn limit(text: &str) -> Result<usize, Problem> {
    let limit = number("limit", text)? as usize;
    if (1..=ROWS_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::bad_path("limit", text, &format!("an integer from 1 to {ROWS_MAX}")))
}

/// `1/4` to `4/4`, as 0 to 3 of 4.
fn part(text: &str) -> Result<(u16, u16), Problem> {
    let of = text.split_once('/').and_then(|(number, of)| {
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let is_it = digits(number) && digits(of);
        Some((number.parse::<u16>().ok()?, of.parse::<u16>().ok()?)).filter(|_| is_it)
    });
    match of {
        Some((number, of)) if 1 <= number && number <= of && of <= PARTS_MAX => {
            Ok((number - 1, of))
        }
        _ => Err(Problem::bad_path("part", text, "a part such as 1/4, of up to 256")),
    }
}

/// Reads a page: rows of one shard, the first from there on that has some.
pub(crate) async fn read(
    shards: &Shards,
    realm: Realm,
    page: &RowsPage,
) -> Result<Result<(Found, Option<Cursor>), Problem>, SubmitError> {
    let count = shards.count();
    let refused = |cursor: Cursor| Ok(Err(Cursor::refused(&cursor.to_string())));
    let mut at = page.from.unwrap_or(Cursor { shard: ShardId(page.part.0), behind: None });
    loop {
        if at.shard.0 >= count {
            return match page.from {
                Some(cursor) => refused(cursor),
                None => Ok(Ok((none(page.rows), None))), // More parts than shards.
            };
        }
        let list = match (page.rows, at.behind) {
            (Rows::Accounts(kind), Some(Behind::Account(name))) => {
                List::Accounts(kind, Some(name), page.limit)
            }
            (Rows::Accounts(kind), _) => List::Accounts(kind, None, page.limit),
            (Rows::Items, Some(Behind::Item(item))) => List::Items(Some(item), page.limit),
            (Rows::Items, _) => List::Items(None, page.limit),
        };
        let (found, behind) = match shards.list(at.shard, realm, list).await? {
            Listed::Accounts(accounts, behind) => {
                (Found::Accounts(accounts), behind.map(Behind::Account))
            }
            Listed::Items(items, behind) => (Found::Items(items), behind.map(Behind::Item)),
            Listed::Named(_) | Listed::NotThere => return refused(at),
        };
        let next = match behind {
            Some(_) => Some(Cursor { behind, ..at }),
            None => {
                let shard = at.shard.0.checked_add(page.part.1).filter(|shard| *shard < count);
                shard.map(|shard| Cursor { shard: ShardId(shard), behind: None })
            }
        };
        match (found, next) {
            // A shard that has none: the next one may.
            (Found::Accounts(accounts), Some(next)) if accounts.is_empty() && behind.is_none() => {
                at = next;
            }
            (Found::Items(items), Some(next)) if items.is_empty() && behind.is_none() => at = next,
            (Found::Items(items), next) => {
                return Ok(Ok((Found::Items(whole(shards, realm, at.shard, items).await?), next)));
            }
            (found, next) => return Ok(Ok((found, next))),
        }
    }
}

fn none(rows: Rows) -> Found {
    match rows {
        Rows::Accounts(_) => Found::Accounts(Vec::new()),
        Rows::Items => Found::Items(Vec::new()),
    }
}

/// Adds what all other shards say of items that are at home on one.
async fn whole(
    shards: &Shards,
    realm: Realm,
    home: ShardId,
    mut items: Vec<ItemView>,
) -> Result<Vec<ItemView>, SubmitError> {
    if items.is_empty() || shards.count() == 1 {
        return Ok(items);
    }
    let list = List::Named(items.iter().map(|item| item.item).collect());
    for listed in shards.list_others(home, realm, &list).await {
        let Listed::Named(there) = listed? else {
            unreachable!("items are asked for by their names")
        };
        for (item, there) in items.iter_mut().zip(&there) {
            if let Some(there) = there {
                *item = add_items(*item, there);
            }
        }
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_as_they_are_written() {
        let accounts = Rows::Accounts(AccountKind::Main);
        for (rows, text) in [
            (accounts, "0"),
            (accounts, "15-18446744073709551615-GBP-payable"),
            (Rows::Items, "3-0"),
        ] {
            assert_eq!(Cursor::parse(text, rows).unwrap().to_string(), text);
        }
        for (rows, text) in [
            (accounts, ""),
            (accounts, "x"),
            (accounts, "3-7"),
            (accounts, "3-7-GBP"),
            (accounts, "3-7-gbp-main"),
            (accounts, "3-7-GBP-main-"),
            (accounts, "65536"),
            (accounts, "+3"),
            (Rows::Items, "3-7-GBP-main"),
            (Rows::Items, "3-"),
            (Rows::Items, "3-18446744073709551616"),
        ] {
            assert_eq!(Cursor::parse(text, rows), None, "{text}");
        }
    }

    #[test]
    fn parts_and_limits_have_bounds() {
        let page = |query| RowsPage::parse(Rows::Items, Some(query));
        assert_eq!(page("part=4/4&limit=10000").unwrap().part, (3, 4));
        for query in ["part=0/4", "part=5/4", "part=1", "part=1/257", "part=+1/2", "part=/"] {
            assert!(page(query).is_err(), "{query}");
        }
        for query in ["limit=0", "limit=10001", "limit=x", "kind=main", "part=1/2&from=1"] {
            assert!(page(query).is_err(), "{query}");
        }
        assert!(page("part=2/2&from=1").is_ok() && page("").is_ok());
    }
}
