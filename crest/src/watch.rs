//! Showing how a run is getting on, and ending it early.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use loadgen::Progress;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::Failure;
use crate::report::thousands;

/// Runs a future that spawns local tasks.
pub(crate) fn on_reactor<F: Future>(future: F) -> std::io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(LocalSet::new().block_on(&runtime, future))
}

/// A line about what was done, where a person sees it.
pub(crate) fn say(text: &str) {
    // Where nobody listens, the exit status still says what came of it.
    let _ = writeln!(std::io::stderr(), "  {text}");
}

/// Set at the first Ctrl-C, SIGTERM or SIGHUP; at the second the process ends at once, with `last`
/// called before. From when this returns, they are caught.
pub(crate) fn interrupts(last: impl Fn() + Send + 'static) -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = stop.clone();
    let (caught, catching) = mpsc::channel();
    std::thread::Builder::new().name("crest-signals".to_string()).spawn(
        move || -> std::io::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut interrupts = signal(SignalKind::interrupt())?;
                let mut terminations = signal(SignalKind::terminate())?;
                let mut hangups = signal(SignalKind::hangup())?;
                let mut told = async || {
                    tokio::select! {
                        _ = interrupts.recv() => {}
                        _ = terminations.recv() => {}
                        _ = hangups.recv() => {}
                    }
                };
                // Whoever waits for it is there.
                let _ = caught.send(());
                told().await;
                say("stopping: what is under way is still answered; again to stop at once");
                stopping.store(true, Ordering::Relaxed);
                told().await;
                last();
                std::process::exit(130)
            })
        },
    )?;
    catching.recv().map_err(|_| std::io::Error::other("interrupts can't be caught"))?;
    Ok(stop)
}

/// Shows how `run` is getting on while it runs.
pub(crate) fn watched<T: Send>(
    progress: &Arc<Progress>,
    duration: Duration,
    unit: &str,
    run: impl FnOnce() -> T + Send,
) -> Result<T, Failure> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            let result = run();
            done.store(true, Ordering::Release);
            result
        });
        let bar = ProgressBar::new(duration.as_millis() as u64);
        let style =
            ProgressStyle::with_template("  {bar:30} {msg}").map_err(|error| error.to_string())?;
        bar.set_style(style);
        let start = Instant::now();
        let (mut last, mut last_at) = (0, start);
        let mut said_at = start;
        while !done.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(50));
            if last_at.elapsed() < Duration::from_secs(1) {
                continue;
            }
            let accepted = progress.accepted.load(Ordering::Relaxed);
            let refused = progress.refused.load(Ordering::Relaxed);
            let answered = accepted + refused;
            let rate = (answered - last) as f64 / last_at.elapsed().as_secs_f64();
            (last, last_at) = (answered, Instant::now());
            let text = format!(
                "{:>3} s  {:>9} {unit}/s  {} accepted, {} refused",
                start.elapsed().as_secs(),
                thousands(rate as u64),
                thousands(accepted),
                thousands(refused)
            );
            bar.set_position(start.elapsed().as_millis() as u64);
            bar.set_message(text.clone());
            // Where there is no terminal, a line now and then.
            if bar.is_hidden() && said_at.elapsed() > Duration::from_millis(4900) {
                said_at = Instant::now();
                eprintln!("  {text}");
            }
        }
        bar.finish_and_clear();
        runner.join().map_err(|_| "the load panicked".into())
    })
}
