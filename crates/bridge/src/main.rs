//! The `neurobridge` program.

use std::process::ExitCode;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The options of the allocator, which the environment variable `MALLOC_CONF` overrides.
///
/// A bridge allocates and frees large blocks. The decay is the time after which the allocator returns free pages to the
/// system. With the defaults (a decay of ten seconds, several arenas), half of the memory of a bridge would be free pages.
/// With a decay of a tenth of a second, the allocator would soon request the returned pages again: compared with this, a
/// decay of one second saves a tenth of the processor time with NATS, and costs 2 MiB of memory with Kafka. Each thread
/// caches a few blocks of up to 512 KiB (batches and read buffers), which saves a twentieth of the processor time, and some
/// memory.
#[cfg(feature = "jemalloc")]
#[allow(
    unsafe_code,
    reason = "the allocator reads the symbol of this name, and no other item may have it"
)]
#[unsafe(export_name = "malloc_conf")]
static MALLOC_CONF: &[u8; 87] =
    b"narenas:1,dirty_decay_ms:1000,muzzy_decay_ms:0,tcache_max:524288,tcache_nslots_large:4\0";

fn main() -> ExitCode {
    neurobridge::main()
}
