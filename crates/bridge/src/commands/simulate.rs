//! `neurobridge simulate`: the platform simulator.

use std::fs;

use anyhow::Context;
use neurobridge_protocol::shipped_script;
use neurobridge_simulator::{
    DeclaredFeed, EntryOptions, Options, RestOptions, Script, Simulator, SpreadOptions, TlsFiles,
    TokenOptions,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    cli::{FeedFlags, SimulateFlags},
    config::feeds,
    exit::{Exit, Failure, OrExit},
    signals::Signals,
};

/// Runs the simulator until a signal; a second one ends it at once. Logs the number of sent events at the end.
///
/// # Errors
/// Fails when an option, an address or a file is unusable, or an output file cannot be written.
pub(super) async fn run(flags: SimulateFlags) -> Result<(), Failure> {
    let mut signals = Signals::new().or_exit(Exit::Unavailable)?;
    let scheme = if flags.tls_cert.is_some() { "wss" } else { "ws" };
    let feed = declared_feed(&flags.feed)?;
    let simulator = Simulator::bind(options(flags, feed))
        .await
        .or_exit(Exit::Unavailable)?;
    let handle = simulator.handle();
    let address = simulator.local_addr();
    info!(url = format!("{scheme}://{address}/"), "simulator listening");

    let stop = CancellationToken::new();
    let running = simulator.run(stop.clone());
    tokio::pin!(running);
    let ended = tokio::select! {
        biased;
        signal = signals.next() => {
            info!(signal, "closing all connections; a second signal stops at once");
            stop.cancel();
            tokio::select! {
                biased;
                _ = signals.next() => Ok(()),
                ended = &mut running => ended,
            }
        }
        ended = &mut running => ended,
    };
    let counters = handle.counters();
    info!(
        connections = counters.connections,
        authenticated = counters.authenticated,
        most_at_once = counters.most_open,
        refused = counters.refused,
        events = counters.sent,
        frames = counters.frames,
        pings = counters.pings,
        faults = counters.faults,
        rest_requests = counters.requests,
        most_tokens = handle.most_tokens(),
        "simulator stopped"
    );
    ended.context("simulator failed").or_exit(Exit::Disk)
}

/// Reads the declared feed to simulate, and its script.
///
/// # Errors
/// The declaration or the script cannot be read.
fn declared_feed(flags: &FeedFlags) -> Result<Option<DeclaredFeed>, Failure> {
    let Some(named) = &flags.feed else {
        return Ok(None);
    };
    let script = match &flags.script {
        None => Script::default(),
        Some(named) => {
            let text = match shipped_script(named) {
                Some(text) => text.to_owned(),
                None => fs::read_to_string(named)
                    .with_context(|| format!("--script: {named} cannot be read"))
                    .or_exit(Exit::Usage)?,
            };
            Script::parse(&text)
                .with_context(|| format!("--script: invalid script {named}"))
                .or_exit(Exit::Usage)?
        }
    };
    Ok(Some(DeclaredFeed {
        script,
        acknowledged: flags.acknowledged.clone(),
        ..DeclaredFeed::new(feeds::declaration(named)?)
    }))
}

fn options(flags: SimulateFlags, feed: Option<DeclaredFeed>) -> Options {
    let tls = flags
        .tls_cert
        .zip(flags.tls_key)
        .map(|(certificates, key)| TlsFiles { certificates, key });
    Options {
        listen: flags.listen,
        tokens: flags.tokens,
        rate: flags.rate,
        count: flags.count,
        size: flags.size,
        seed: flags.seed,
        start: flags.start,
        hold: flags.hold,
        faults: flags.faults,
        record: flags.record,
        recognised: flags.recognised,
        token_options: TokenOptions {
            life: flags.token.token_life,
            end: flags.token.token_end,
            one_connection: flags.connections.one_connection,
        },
        entries: EntryOptions {
            holes: flags.events.holes,
            deleted: flags.events.deleted,
            late: flags.events.late,
            late_by: flags.events.late_by,
            clock_offset: flags.events.clock_offset,
        },
        rest: RestOptions {
            shape: flags.rest.rest_shape,
            order: flags.rest.rest_order,
            max_page: flags.rest.rest_max_page,
            keep: flags.rest.rest_keep,
            keep_for: flags.rest.rest_keep_for,
        },
        spread: SpreadOptions {
            delay: flags.connections.delay.unwrap_or_default(),
            shuffle: flags.connections.shuffle,
        },
        tls,
        feed,
        ..Options::default()
    }
}
