//! Runs a simulated platform until Ctrl-C: `cargo run -p neurobridge-simulator --example simulate [ADDR] [RATE]
//! [FAULT]…`
//!
//! The rate `max` sends as fast as clients read.

use std::{error::Error, io::Write};

use neurobridge_simulator::{Options, Simulator};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:9800".to_owned())
        .parse()?;
    let rate = match arguments.next().as_deref() {
        None => Some(10.0),
        Some("max") => None,
        Some(rate) => Some(rate.parse()?),
    };
    let faults = arguments.map(|rule| rule.parse()).collect::<Result<_, _>>()?;

    let simulator = Simulator::bind(Options {
        listen,
        rate,
        faults,
        ..Options::default()
    })
    .await?;
    let handle = simulator.handle();
    writeln!(std::io::stdout(), "ws://{}", handle.local_addr())?;
    let stop = CancellationToken::new();
    let running = tokio::spawn(simulator.run(stop.clone()));
    tokio::signal::ctrl_c().await?;
    stop.cancel();
    running.await??;
    writeln!(std::io::stdout(), "{:?}", handle.counters())?;
    Ok(())
}
