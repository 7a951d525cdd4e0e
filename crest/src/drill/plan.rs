//! What a drill's arguments and its profile come to.

use std::time::Duration;

use loadgen::engine::{Pace, Protocol};
use loadgen::{Lines, Schedule, Settings, Stage};

use crate::{Failure, args};

/// A drill, checked whole.
pub(crate) struct Drill {
    pub(crate) settings: Settings,
    /// When orders are due.
    pub(crate) pace: Pace,
    pub(crate) protocol: Protocol,
}

/// What is on the command line goes before what is in the profile.
pub(crate) fn of(args: &args::Drill) -> Result<Drill, Failure> {
    let mut settings = Settings::find(&args.profile)?;
    let requests = &mut settings.requests;
    requests.batch = args.batch.unwrap_or(requests.batch);
    requests.connections = args.connections.map_or(requests.connections, Into::into);
    requests.threads = args.threads.map_or(requests.threads, Into::into);
    settings.buyers.count = args.buyers.unwrap_or(settings.buyers.count);
    settings.items.count = args.items.unwrap_or(settings.items.count);
    settings.seed = args.seed.unwrap_or(settings.seed);
    if let Some(lines) = args.lines {
        settings.basket.lines = Lines::Fixed(lines).weights();
    }
    settings.shape.arrivals = args.arrivals.unwrap_or(settings.shape.arrivals);
    let pace = match settings.pace() {
        Pace::Count(orders) => counted(args, &settings, orders)?,
        Pace::Max(duration) => {
            let duration = args.duration.unwrap_or(duration);
            match args.rate {
                None => Pace::Max(duration),
                Some(rate) => Pace::Schedule(Schedule {
                    stages: vec![Stage::constant(rate, duration)],
                    arrivals: settings.shape.arrivals,
                    seed: settings.seed,
                }),
            }
        }
        Pace::Schedule(schedule) => staged(args, &settings.name, schedule)?,
    };
    let compress = args.compress.unwrap_or(1.0);
    let pace = match pace {
        Pace::Max(duration) => Pace::Max(duration.div_f64(compress)),
        Pace::Count(orders) => Pace::Count(orders),
        Pace::Schedule(schedule) => Pace::Schedule(schedule.compressed(compress)),
    };
    let afterwards = &mut settings.afterwards;
    afterwards.within = afterwards.within.div_f64(compress);
    afterwards.expire = afterwards.expire.map(|expire| expire.div_f64(compress));
    settings.check()?;
    if args.http == args::Http::Crest1 && settings.besides.browse > 0.0 {
        return Err(format!(
            "the profile {} looks at things, too: over crest/1 commands are sent and nothing else",
            settings.name
        )
        .into());
    }
    let protocol = args.http.protocol(args.streams.get());
    Ok(Drill { settings, pace, protocol })
}

/// A profile that says how many orders there are: as fast as answers come, or at a rate.
fn counted(args: &args::Drill, settings: &Settings, orders: u64) -> Result<Pace, Failure> {
    if args.duration.is_some() {
        let name = &settings.name;
        return Err(format!(
            "the profile {name} ends when every buyer has an answer; --buyers says how many there \
             are"
        )
        .into());
    }
    Ok(match args.rate {
        None => Pace::Count(orders),
        Some(rate) => Pace::Schedule(Schedule {
            stages: vec![Stage::constant(rate, Duration::from_secs_f64(orders as f64 / rate))],
            arrivals: settings.shape.arrivals,
            seed: settings.seed,
        }),
    })
}

/// A profile with a shape of its own keeps it.
fn staged(args: &args::Drill, name: &str, schedule: Schedule) -> Result<Pace, Failure> {
    if args.max {
        return Ok(Pace::Max(args.duration.unwrap_or(schedule.duration())));
    }
    if args.duration.is_some() {
        return Err(format!(
            "the profile {name} has a length of its own; --compress makes it shorter, and --max \
             sends its orders as fast as answers come"
        )
        .into());
    }
    Ok(Pace::Schedule(match args.rate {
        Some(peak) => schedule.scaled(peak / schedule.peak()),
        None => schedule,
    }))
}
