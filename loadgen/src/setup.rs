//! What must be there before orders are: buyers with money, items with stock.

use std::cell::Cell;
use std::rc::Rc;

use model::ItemId;

use crate::client::{ClientError, Connection};
use crate::profile::Profile;
use crate::target::Target;

/// Accounts or items per request.
const BATCH: u64 = 5_000;

/// Why the platform isn't ready for a drill.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The connection.
    #[error("setting up: {0}")]
    Client(#[from] ClientError),
    /// The platform's answer.
    #[error("setting up {what}: status {status}: {body}")]
    Refused {
        /// What was to be made.
        what: &'static str,
        /// HTTP status.
        status: u16,
        /// The beginning of the answer.
        body: String,
    },
}

/// Opens the profile's accounts and lists its items. What is there already stays.
///
/// Runs on the current thread's `LocalSet`.
pub async fn set_up(
    target: &Target,
    profile: &Rc<Profile>,
    connections: usize,
) -> Result<(), SetupError> {
    let of = profile.clone();
    fill(target, connections, "items", profile.items(), move |n, body| {
        let item = ItemId(1 + n);
        let (seller, price, stock) = (of.seller(item), of.price(item), of.stock(item));
        body.extend_from_slice(
            format!(
                r#"{{"item":{item},"seller":{seller},"currency":"GBP","price":{price},"stock":{stock}}}"#
            )
            .as_bytes(),
        );
    })
    .await?;
    let balance = profile.balance();
    fill(target, connections, "accounts", profile.buyers(), move |n, body| {
        let party = 1 + n;
        body.extend_from_slice(
            format!(r#"{{"party":{party},"currency":"GBP","balance":{balance}}}"#).as_bytes(),
        );
    })
    .await
}

/// Creates `count` of `what` in batches, over several connections.
pub async fn fill(
    target: &Target,
    connections: usize,
    what: &'static str,
    count: u64,
    one: impl Fn(u64, &mut Vec<u8>) + Clone + 'static,
) -> Result<(), SetupError> {
    let next = Rc::new(Cell::new(0));
    let workers: Vec<_> = (0..connections.max(1))
        .map(|_| {
            let (target, next, one) = (target.clone(), next.clone(), one.clone());
            tokio::task::spawn_local(async move {
                let mut connection = Connection::open(&target).await?;
                let (mut head, mut body) = (Vec::new(), Vec::new());
                loop {
                    let first = next.get();
                    if first >= count {
                        return Ok::<(), SetupError>(());
                    }
                    let end = (first + BATCH).min(count);
                    next.set(end);
                    body.clear();
                    body.extend_from_slice(format!("{{\"{what}\":[").as_bytes());
                    for n in first..end {
                        if n > first {
                            body.push(b',');
                        }
                        one(n, &mut body);
                    }
                    body.extend_from_slice(b"]}");
                    head.clear();
                    target.post(&format!("/v1/{what}/batch"), body.len(), &mut head);
                    connection.send(&head, &body).await?;
                    let (status, answer) = connection.receive().await?;
                    check(what, status, answer)?;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.expect("a set-up task doesn't panic")?;
    }
    Ok(())
}

/// Every result must be done, now or before.
fn check(what: &'static str, status: u16, answer: &[u8]) -> Result<(), SetupError> {
    let refused = |body: &[u8]| SetupError::Refused {
        what,
        status,
        body: String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned(),
    };
    if status != 200 {
        return Err(refused(answer));
    }
    let mut outcomes = Vec::new();
    crate::results::parse_results(answer, &mut outcomes)?;
    let done = |&outcome: &u8| model::Outcome::from_byte(outcome).is_some_and(|o| o.is_done());
    match outcomes.iter().all(done) {
        true => Ok(()),
        false => Err(refused(b"some exist already with other content")),
    }
}
