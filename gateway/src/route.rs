//! From a method and a path to what is wanted.

use hyper::{Method, Uri};
use model::json::decode::{Request, parse_uuid};
use model::reply::Query;
use model::{AccountKind, ChangeId, Currency, ItemId, Offset, OrderId, Party};
use node::{MOVEMENTS_MAX, ORDERS_MAX};

use crate::Wanted;
use crate::answer::Problem;
use crate::feed::FeedQuery;
use crate::listing::{Rows, RowsPage};

/// What a request wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To see something.
    Read(Query),
    /// To see what moved an account's money.
    Statement(Page),
    /// To see a buyer's orders.
    Orders(OrdersPage),
    /// To see what is private of an order.
    Private(Party, OrderId),
    /// That nobody can read any more what is private of a party's.
    Erase(Party),
    /// To see what happens.
    Feed(FeedQuery),
    /// To see what events look like.
    FeedSchema,
    /// To see all accounts or items.
    Rows(RowsPage),
    /// To change something; alone, or a batch whose answer is a list of results.
    Write(Wanted, Option<Single>),
}

/// A page of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub party: Party,
    pub currency: Currency,
    pub kind: AccountKind,
    /// Where it begins; `None`: with the newest.
    pub from: Option<Offset>,
    /// How many movements, 1 to [`MOVEMENTS_MAX`].
    pub limit: usize,
}

/// A page of a buyer's orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OrdersPage {
    pub buyer: Party,
    /// Where it begins; `None`: with the newest.
    pub from: Option<Offset>,
    /// How many, 1 to [`ORDERS_MAX`].
    pub limit: usize,
}

/// How the answer to a single change looks when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Single {
    /// Something new has a place of its own.
    Created,
    /// Something that is there was changed.
    Changed,
}

impl Route {
    pub(crate) fn of(method: &Method, uri: &Uri) -> Result<Route, Problem> {
        let path = uri.path();
        let Some(rest) = path.strip_prefix("/v1/") else { return Err(Problem::no_path(path)) };
        let mut parts = [""; 6];
        let mut count = 0;
        for part in rest.split('/') {
            if count == parts.len() {
                return Err(Problem::no_path(path));
            }
            parts[count] = part;
            count += 1;
        }
        use Request::*;
        use Single::*;
        let post = |request, single| match *method {
            Method::POST => Ok(Route::Write(Wanted::Of(request), single)),
            _ => Err(Problem::wrong_method("POST")),
        };
        let get = |query| match *method {
            Method::GET | Method::HEAD => Ok(Route::Read(query)),
            _ => Err(Problem::wrong_method("GET, HEAD")),
        };
        match parts[..count] {
            ["orders"] => post(Order, Some(Created)),
            ["orders", "batch"] => post(Orders, None),
            ["commands"] => match *method {
                Method::POST => Ok(Route::Write(Wanted::Any, None)),
                _ => Err(Problem::wrong_method("POST")),
            },
            ["accounts"] => match *method {
                Method::POST => post(Account, Some(Created)),
                _ => rows(method, Rows::Accounts(AccountKind::Main), uri),
            },
            ["accounts", "batch"] => post(Accounts, None),
            ["accounts", party, "statement"] => match *method {
                Method::GET | Method::HEAD => Ok(Route::Statement(statement(party, uri.query())?)),
                _ => Err(Problem::wrong_method("GET, HEAD")),
            },
            ["accounts", party, change] => {
                let party = Party(number("party", party)?);
                match change {
                    "update" => post(UpdateAccount(party), Some(Changed)),
                    "close" => post(CloseAccount(party), Some(Changed)),
                    _ => Err(Problem::no_path(path)),
                }
            }
            ["accounts", party, "holds", hold] => {
                get(Query::Hold(Party(number("party", party)?), ChangeId(uuid("hold", hold)?)))
            }
            ["accounts", party, "holds", hold, change] => {
                let party = Party(number("party", party)?);
                let hold = ChangeId(uuid("hold", hold)?);
                match change {
                    "capture" => post(CaptureHold(party, hold), Some(Changed)),
                    "release" => post(ReleaseHold(party, hold), Some(Changed)),
                    _ => Err(Problem::no_path(path)),
                }
            }
            ["holds"] => post(Hold, Some(Created)),
            ["coupons"] => post(Coupon, Some(Created)),
            ["coupons", "batch"] => post(Coupons, None),
            ["buyers", buyer, "coupons", coupon] => {
                let buyer = Party(number("buyer", buyer)?);
                get(Query::Coupon(buyer, number("coupon", coupon)?))
            }
            ["accounts", party] => get(account(party, uri.query())?),
            ["items"] => match *method {
                Method::POST => post(Item, Some(Created)),
                _ => rows(method, Rows::Items, uri),
            },
            ["items", "batch"] => post(Items, None),
            ["items", item] => get(Query::Item(ItemId(number("item", item)?))),
            ["items", item, "restock"] => {
                post(Restock(ItemId(number("item", item)?)), Some(Changed))
            }
            ["items", item, "update"] => {
                post(UpdateItem(ItemId(number("item", item)?)), Some(Changed))
            }
            ["transfers"] => post(Transfer, Some(Changed)),
            ["transfers", "batch"] => post(Transfers, None),
            ["buyers", buyer, "orders"] => match *method {
                Method::GET | Method::HEAD => Ok(Route::Orders(orders(buyer, uri.query())?)),
                _ => Err(Problem::wrong_method("GET, HEAD")),
            },
            ["buyers", buyer, "orders", id] => {
                get(Query::Order(Party(number("buyer", buyer)?), order(id)?))
            }
            ["buyers", buyer, "orders", id, change] => {
                let (buyer, id) = (Party(number("buyer", buyer)?), order(id)?);
                match change {
                    "private" => match *method {
                        Method::GET | Method::HEAD => Ok(Route::Private(buyer, id)),
                        _ => Err(Problem::wrong_method("GET, HEAD")),
                    },
                    "pay" => post(Pay(buyer, id), Some(Changed)),
                    "authorise" => post(Authorise(buyer, id), Some(Changed)),
                    "capture" => post(Capture(buyer, id), Some(Changed)),
                    "void" => post(Void(buyer, id), Some(Changed)),
                    "receive" => post(Receive(buyer, id), Some(Changed)),
                    "cancel" => post(Cancel(buyer, id), Some(Changed)),
                    "refund" => post(Refund(buyer, id), Some(Changed)),
                    _ => Err(Problem::no_path(path)),
                }
            }
            ["feed"] => match *method {
                Method::GET => Ok(Route::Feed(FeedQuery::parse(uri.query())?)),
                _ => Err(Problem::wrong_method("GET")),
            },
            ["feed", "schema"] => match *method {
                Method::GET | Method::HEAD => Ok(Route::FeedSchema),
                _ => Err(Problem::wrong_method("GET, HEAD")),
            },
            ["parties", party, "private"] => match *method {
                Method::DELETE => Ok(Route::Erase(Party(number("party", party)?))),
                _ => Err(Problem::wrong_method("DELETE")),
            },
            _ => Err(Problem::no_path(path)),
        }
    }
}

/// A page of what can be created by a POST, too.
fn rows(method: &Method, rows: Rows, uri: &Uri) -> Result<Route, Problem> {
    match *method {
        Method::GET | Method::HEAD => Ok(Route::Rows(RowsPage::parse(rows, uri.query())?)),
        _ => Err(Problem::wrong_method("GET, HEAD, POST")),
    }
}

pub(crate) fn number(field: &str, text: &str) -> Result<u64, Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits => Ok(number),
        _ => Err(Problem::bad_path(field, text, "an integer from 0 to 18446744073709551615")),
    }
}

fn order(text: &str) -> Result<OrderId, Problem> {
    uuid("id", text).map(OrderId)
}

fn uuid(field: &str, text: &str) -> Result<u128, Problem> {
    parse_uuid(text).ok_or_else(|| Problem::bad_path(field, text, "a UUID in its hyphenated form"))
}

/// `?currency=GBP`, and `&kind=` where it isn't the main account.
fn account(party: &str, query: Option<&str>) -> Result<Query, Problem> {
    let page = parameters(party, query, "a parameter; `currency` and `kind` are")?;
    match (page.from, page.limit) {
        (None, 0) => Ok(Query::Account(page.party, page.currency, page.kind)),
        (from, _) => {
            let name = if from.is_some() { "from" } else { "limit" };
            Err(Problem::bad_path(name, name, "a parameter; `currency` and `kind` are"))
        }
    }
}

/// The same with `&from=` and `&limit=`.
fn statement(party: &str, query: Option<&str>) -> Result<Page, Problem> {
    let expected = "a parameter; `currency`, `kind`, `from` and `limit` are";
    let page = parameters(party, query, expected)?;
    if !page.kind.is_own() {
        let expected = "`main`, `settlement` or `suspense`: others have no statement";
        return Err(Problem::bad_path("kind", page.kind.word(), expected));
    }
    Ok(Page { limit: if page.limit == 0 { MOVEMENTS_MAX } else { page.limit }, ..page })
}

fn orders(buyer: &str, query: Option<&str>) -> Result<OrdersPage, Problem> {
    let buyer = Party(number("buyer", buyer)?);
    let mut page = OrdersPage { buyer, from: None, limit: ORDERS_MAX };
    for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("from", offset) => page.from = Some(Offset(number("from", offset)?)),
            ("limit", text) => page.limit = page_length(text)?,
            (name, _) => {
                let expected = "a parameter; `from` and `limit` are";
                return Err(Problem::bad_path(name, name, expected));
            }
        }
    }
    Ok(page)
}

fn page_length(text: &str) -> Result<usize, Problem> {
    let length = number("limit", text)? as usize;
    if (1..=MOVEMENTS_MAX).contains(&length) {
        return Ok(length);
    }
    Err(Problem::bad_path("limit", text, "an integer from 1 to 100"))
}

const _: () = assert!(MOVEMENTS_MAX == 100 && ORDERS_MAX == MOVEMENTS_MAX);

pub(crate) fn kind_of(word: &str) -> Result<AccountKind, Problem> {
    AccountKind::from_word(word).ok_or_else(|| {
        let expected =
            "`main`, `payable`, `settlement`, `suspense`, `deposit`, `funding` or `clearing`";
        Problem::bad_path("kind", word, expected)
    })
}

fn parameters(party: &str, query: Option<&str>, expected: &str) -> Result<Page, Problem> {
    let (mut currency, mut kind) = (None, AccountKind::Main);
    let (mut from, mut limit) = (None, 0);
    for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("currency", code) => {
                let found = Currency::from_code(code);
                currency = Some(found.ok_or_else(|| {
                    Problem::bad_path("currency", code, "an ISO 4217 code such as GBP")
                })?);
            }
            ("kind", word) => kind = kind_of(word)?,
            ("from", offset) => from = Some(Offset(number("from", offset)?)),
            ("limit", text) => limit = page_length(text)?,
            (name, _) => return Err(Problem::bad_path(name, name, expected)),
        }
    }
    let currency = currency
        .ok_or_else(|| Problem::bad_path("currency", "", "an ISO 4217 code such as GBP"))?;
    Ok(Page { party: Party(number("party", party)?), currency, kind, from, limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(method: Method, uri: &str) -> Result<Route, u16> {
        Route::of(&method, &uri.parse().unwrap()).map_err(|problem| problem.status().as_u16())
    }

    #[test]
    fn paths_lead_where_they_should() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        let order = OrderId(parse_uuid(id).unwrap());
        assert_eq!(
            route(Method::POST, "/v1/orders"),
            Ok(Route::Write(Wanted::Of(Request::Order), Some(Single::Created)))
        );
        assert_eq!(
            route(Method::GET, &format!("/v1/buyers/7/orders/{id}")),
            Ok(Route::Read(Query::Order(Party(7), order)))
        );
        assert_eq!(
            route(Method::POST, &format!("/v1/buyers/7/orders/{id}/refund")),
            Ok(Route::Write(Wanted::Of(Request::Refund(Party(7), order)), Some(Single::Changed)))
        );
        assert_eq!(
            route(Method::GET, "/v1/accounts/7?currency=GBP&kind=payable"),
            Ok(Route::Read(Query::Account(Party(7), Currency::GBP, AccountKind::Payable)))
        );
    }

    #[test]
    fn other_paths_are_refused_by_kind() {
        for (method, uri, status) in [
            (Method::GET, "/v1/orders", 405),
            (Method::DELETE, "/v1/items/1", 405),
            (Method::DELETE, "/v1/items", 405),
            (Method::PUT, "/v1/accounts", 405),
            (Method::GET, "/v1/accounts?limit=10001", 400),
            (Method::GET, "/v1/accounts?kind=clearing", 400),
            (Method::GET, "/v1/accounts?currency=GBP", 400),
            (Method::GET, "/v1/items?from=x", 400),
            (Method::GET, "/", 404),
            (Method::GET, "/v1/", 404),
            (Method::GET, "/v1/orders/batch/x", 404),
            (Method::GET, "/v1/a/b/c/d/e/f/g/h", 404),
            (Method::GET, "/v1/items/+1", 400),
            (Method::GET, "/v1/items/18446744073709551616", 400),
            (Method::GET, "/v1/buyers/1/orders/1", 400),
            (Method::GET, "/v1/accounts/1", 400),
            (Method::GET, "/v1/accounts/1?currency=GBP&colour=red", 400),
            (Method::GET, "/v1/accounts/1?currency=GBP&limit=3", 400),
            (Method::GET, "/v1/accounts/1/statement", 400),
            (Method::GET, "/v1/accounts/1/statement?currency=GBP&limit=101", 400),
            (Method::GET, "/v1/accounts/1/statement?currency=GBP&kind=payable", 400),
            (Method::POST, "/v1/accounts/1/statement?currency=GBP", 405),
            (Method::POST, "/v1/buyers/1/orders", 405),
            (Method::GET, "/v1/parties/1/private", 405),
            (Method::DELETE, "/v1/parties/x/private", 400),
            (Method::GET, "/v1/buyers/x/orders", 400),
            (Method::GET, "/v1/buyers/1/orders?limit=0", 400),
            (Method::GET, "/v1/buyers/1/orders?state=paid", 400),
            (Method::POST, "/v1/feed", 405),
            (Method::GET, "/v1/feed?from=3-x", 400),
            (Method::GET, "/v1/feed?from=yesterday", 400),
            (Method::GET, "/v1/feed?from=3-1-0", 400),
            (Method::GET, "/v1/feed?until=2026-11-11T00:00:00Z", 400),
            (Method::GET, "/v1/feed?type=order.lost", 400),
            (Method::GET, "/v1/feed?type=", 400),
            (Method::GET, "/v1/feed?buyer=x", 400),
            (Method::GET, "/v1/feed?shop=1", 400),
            (Method::GET, "/v1/feed/schemas", 404),
        ] {
            assert_eq!(route(method, uri), Err(status), "{uri}");
        }
    }
}
