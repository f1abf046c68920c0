//! The `neurobridge` program.

use std::process::ExitCode;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Read by the allocator when it starts; the environment's `MALLOC_CONF` goes above it. A bridge allocates and frees in
/// large pieces: kept for the usual ten seconds and by several arenas, what is free would be as much as what is used. Given
/// back within a tenth of a second, the same pages are asked for again at once: a second saves a tenth of the processor time
/// into NATS, and costs 2 MiB into Kafka. A few pieces of up to 512 KiB, batches and read buffers, are kept by each thread:
/// that saves a twentieth of the processor time, and memory too.
#[cfg(feature = "jemalloc")]
#[allow(
    unsafe_code,
    reason = "the name is the allocator's own, and nothing else may have it"
)]
#[unsafe(export_name = "malloc_conf")]
static MALLOC_CONF: &[u8; 87] =
    b"narenas:1,dirty_decay_ms:1000,muzzy_decay_ms:0,tcache_max:524288,tcache_nslots_large:4\0";

fn main() -> ExitCode {
    neurobridge::main()
}
