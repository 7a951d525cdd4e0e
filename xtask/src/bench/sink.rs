//! How fast the feed gets into PostgreSQL, beside what PostgreSQL does with the same rows from a file.

use std::process::{Command, Stdio};
use std::time::Instant;

use tokio::task::spawn_local;

use super::cluster::{Cluster, on_reactor};
use super::crest;
use super::feed::Platform;
use super::parts::ROUNDS;
use super::table::Row;
use crate::run::{Failure, root, run};

const ORDERS: u64 = 500_000;
/// Connections, on either side.
const PARTS: u64 = 2;
const TABLES: [&str; 4] = ["orders", "order_lines", "order_payments", "ledger_entries"];

pub(super) fn measure() -> Result<Vec<Row>, Failure> {
    let crest = crest::build()?;
    let dir = tempfile::Builder::new().prefix("sink-").tempdir_in(root().join("target"))?;
    let platform = Platform::start(&crest, &dir.path().join("data"))?;
    let mut drill = Command::new(&crest);
    drill.args(["drill", "--target", &platform.url, "--buyers", "20000", "--items", "10000"]);
    let (rate, duration) = ((ORDERS / 5).to_string(), "5s");
    run(drill.args(["--rate", &rate, "--duration", duration]).stdout(Stdio::null()))?;
    let cluster = Cluster::start(dir.path())?;
    let sink = || -> Result<f64, Failure> {
        on_reactor(execute(&cluster, "DROP SCHEMA IF EXISTS crest CASCADE; CHECKPOINT"))??;
        let mut sink = Command::new(&crest);
        sink.args(["sink", "postgres", "--feed", &platform.url, "--url", &cluster.url()]);
        sink.args(["--until", "now", "--parts", &PARTS.to_string()]).env("CREST_LOG", "error");
        let began = Instant::now();
        run(sink.stdout(Stdio::null()))?;
        Ok(ORDERS as f64 / began.elapsed().as_secs_f64())
    };
    // What is there is what the bare one writes.
    sink()?;
    on_reactor(write_files(&cluster))??;
    let name = format!("orders into PostgreSQL, {PARTS} connections: 8 rows each");
    let mut row = Row::new(name, "orders/s", "`COPY` of the same rows from files");
    for round in 0..ROUNDS {
        for side in [round % 2, 1 - round % 2] {
            match side {
                0 => row.ours.push(sink()?),
                _ => row.peer.push(on_reactor(bare(&cluster))??),
            }
        }
    }
    Ok(vec![row])
}

async fn execute(cluster: &Cluster, sql: &str) -> Result<(), Failure> {
    Ok(cluster.connect("").await?.batch_execute(sql).await?)
}

/// Each part's rows, as a file for each table.
async fn write_files(cluster: &Cluster) -> Result<(), Failure> {
    let client = cluster.connect("-c search_path=crest").await?;
    for table in TABLES {
        let number = match table {
            "orders" => "number",
            "ledger_entries" => "record",
            _ => "order_number",
        };
        for part in 0..PARTS {
            let rows = format!("SELECT * FROM {table} WHERE ({number} >> 48) % {PARTS} = {part}");
            let file = cluster.data().join(format!("{table}-{part}"));
            let copy = format!("COPY ({rows}) TO '{}' (FORMAT binary)", file.display());
            client.batch_execute(&copy).await?;
        }
    }
    let like = |table| format!("CREATE TABLE bare.{table} (LIKE crest.{table} INCLUDING ALL);");
    let make: String = TABLES.map(like).concat();
    client.batch_execute(&format!("CREATE SCHEMA bare; {make}")).await?;
    Ok(())
}

/// All files at once, as many connections as there are parts.
async fn bare(cluster: &Cluster) -> Result<f64, Failure> {
    let truncate = "TRUNCATE bare.orders, bare.order_lines, bare.order_payments, \
                    bare.ledger_entries; ";
    execute(cluster, truncate).await?;
    execute(cluster, "CHECKPOINT").await?;
    let began = Instant::now();
    let mut parts = Vec::new();
    for part in 0..PARTS {
        let client = cluster.connect("-c search_path=bare").await?;
        let copies = TABLES.map(|table| {
            let file = cluster.data().join(format!("{table}-{part}"));
            format!("COPY {table} FROM '{}' (FORMAT binary);", file.display())
        });
        let all = format!("BEGIN; {} COMMIT", copies.concat());
        parts.push(spawn_local(async move { client.batch_execute(&all).await }));
    }
    for part in parts {
        part.await.expect("no task panics or is cancelled")?;
    }
    Ok(ORDERS as f64 / began.elapsed().as_secs_f64())
}
