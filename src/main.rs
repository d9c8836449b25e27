//! The program `pomona`: see [`pomona::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    limit_heap();
    pomona::cli::main(std::env::args_os()).into()
}

/// Blocks of this size and more are given back to the system when they are freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: libc::c_int = 640 << 10;
/// So much unused memory at the end of the heap is given back, too.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const UNUSED: libc::c_int = 2 << 20;

/// Makes all threads share one heap of glibc, which large blocks are not part of. By default each thread gets a heap, heaps keep
/// freed memory, and after the first large blocks the next ones come from a heap too: memory grows with the number of shards.
/// Each variable in the environment overrides its parameter.
#[allow(unsafe_code)]
fn limit_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value, variable) in [
        (libc::M_ARENA_MAX, 1, "MALLOC_ARENA_MAX"),
        (libc::M_MMAP_THRESHOLD, LARGE, "MALLOC_MMAP_THRESHOLD_"),
        (libc::M_TRIM_THRESHOLD, UNUSED, "MALLOC_TRIM_THRESHOLD_"),
    ] {
        if std::env::var_os(variable).is_none() {
            // SAFETY: no other thread exists yet, and the parameters change only where blocks come from.
            unsafe {
                libc::mallopt(parameter, value);
            }
        }
    }
}
