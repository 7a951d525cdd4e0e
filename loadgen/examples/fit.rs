//! Fits basket sizes to recorded purchases and prints them as a profile's tables.
//!
//! `cargo run -p loadgen --example fit -- FILE.csv[.gz]`
//!
//! Orders of guests are left out: the file has no more of them than a number, and one "guest" may
//! be a day's sales of a shop. A table has at most 40 points; it is refused where its mean is off
//! by more than 0.5 %.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use loadgen::baskets::{Discrete, quantise};
use loadgen::trace::{Event, GUEST_FIRST, Plan};

/// Points of one table.
const POINTS_MAX: usize = 40;
/// How far a table's mean may be from the counted one, as a share of it.
const MEAN_OFF_MAX: f64 = 0.005;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(file), None) = (arguments.next(), arguments.next()) else {
        return Err("usage: fit FILE.csv[.gz]".into());
    };
    let plan = Plan::open(Path::new(&file))?;

    let mut orders: u64 = 0;
    let mut lines_of_order: BTreeMap<u32, u64> = BTreeMap::new();
    let mut units_of_line: BTreeMap<u32, u64> = BTreeMap::new();
    for event in &plan.events {
        let Event::Order { buyer, lines, .. } = event else { continue };
        if *buyer >= GUEST_FIRST {
            continue;
        }
        orders += 1;
        *lines_of_order.entry(lines.len() as u32).or_default() += 1;
        for line in lines {
            *units_of_line.entry(line.quantity.0).or_default() += 1;
        }
    }

    println!("# Fitted to {orders} orders of customers.");
    print_table("lines", "lines of an order", &lines_of_order)?;
    print_table("quantity", "units of a line", &units_of_line)?;
    Ok(())
}

fn print_table(name: &str, what: &str, counts: &BTreeMap<u32, u64>) -> Result<(), Box<dyn Error>> {
    let total: u64 = counts.values().sum();
    let sum: f64 = counts.iter().map(|(&value, &count)| f64::from(value) * count as f64).sum();
    let counted = sum / total as f64;
    let points: Vec<(u32, f64)> = quantise(counts, POINTS_MAX)
        .into_iter()
        .map(|(value, weight)| (value, significant(weight)))
        .collect();
    let fitted = Discrete::new(&points)?.mean();
    let off = fitted / counted - 1.0;
    if off.abs() > MEAN_OFF_MAX {
        return Err(format!(
            "{name}: the table's mean is {fitted:.3}, counted are {counted:.3}: {:+.2} %",
            100.0 * off
        )
        .into());
    }
    println!("# {what}: {} values in {} points,", counts.len(), points.len());
    println!("# mean {fitted:.3} (counted {counted:.3}, {:+.2} %)", 100.0 * off);
    println!("{name} = [");
    for row in points.chunks(5) {
        let row: Vec<String> = row.iter().map(|(v, weight)| format!("[{v}, {weight}]")).collect();
        println!("    {},", row.join(", "));
    }
    println!("]");
    Ok(())
}

/// Four significant digits: more than the counts bear out.
fn significant(weight: f64) -> f64 {
    let magnitude = weight.log10().floor() as i32;
    let digits = usize::try_from(3 - magnitude).unwrap_or(0);
    format!("{weight:.digits$}").parse().unwrap_or(weight)
}
