//! Measures the speed at which the simulator sends to one connection. The client only counts the received bytes.
//!
//! `cargo run --release -p neurobridge-simulator --example throughput [SECONDS] [SIZE]`

use std::{
    error::Error,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use neurobridge_simulator::{Options, Simulator};
use tokio_util::sync::CancellationToken;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let seconds: u64 = arguments.next().map_or(Ok(5), |argument| argument.parse())?;
    let size: Option<usize> = arguments.next().map(|argument| argument.parse()).transpose()?;

    // One worker thread, so that the result is the speed of one core.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let simulator = runtime.block_on(Simulator::bind(Options {
        size,
        ..Options::default()
    }))?;
    let (handle, stop) = (simulator.handle(), CancellationToken::new());
    let running = runtime.spawn(simulator.run(stop.clone()));

    let mut socket = TcpStream::connect(handle.local_addr())?;
    socket.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")?;
    // A mask of zeros leaves the payload unchanged.
    let auth = br#"{"action":"AUTH","data":{"token":"any"}}"#;
    socket.write_all(&[0x81, 0x80 | auth.len() as u8, 0, 0, 0, 0])?;
    socket.write_all(auth)?;

    let (mut buffer, mut received) = (vec![0; 1 << 20], 0_u64);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) {
        received += socket.read(&mut buffer)? as u64;
    }
    let (elapsed, sent) = (start.elapsed().as_secs_f64(), handle.counters().sent as f64);
    drop(socket);
    stop.cancel();
    runtime.block_on(running)??;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:.0} events/s, {:.0} MB/s, {:.0} bytes/event",
        sent / elapsed,
        received as f64 / elapsed / 1e6,
        received as f64 / sent
    )?;
    Ok(())
}
