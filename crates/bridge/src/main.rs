//! The `neurobridge` program.

use std::process::ExitCode;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Read by the allocator when it starts; the environment's `MALLOC_CONF` goes above it. A bridge allocates and frees in
/// large pieces: kept for the usual ten seconds and by several arenas, what is free would be as much as what is used;
/// kept for less than a second, at full speed a twentieth of all time goes into getting it back from the system.
#[cfg(feature = "jemalloc")]
#[allow(
    unsafe_code,
    reason = "the name is the allocator's own, and nothing else may have it"
)]
#[unsafe(export_name = "malloc_conf")]
static MALLOC_CONF: &[u8; 47] = b"narenas:1,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    neurobridge::main()
}
