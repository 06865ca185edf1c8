//! The proxy's program: parses the command line and calls the command.

use std::process::ExitCode;

use tikv_jemalloc_ctl::{Access as _, AsName as _};
use tikv_jemallocator::Jemalloc;

/// Gives memory back to the system after a burst, also when nothing is asked any more.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Milliseconds for which freed memory is kept for what comes next. Of 400 MB, 5 are left by twice that.
const KEPT: isize = 2000;

fn main() -> ExitCode {
    // Of the arena that there is, and of those to come. If it fails, the allocator's own ten seconds hold.
    for kept in [&b"arena.0.dirty_decay_ms\0"[..], b"arenas.dirty_decay_ms\0"] {
        let _ = kept.name().write(KEPT);
    }
    gpu_bridge::cli::Cli::given().run()
}
