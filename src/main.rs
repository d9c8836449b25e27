//! The program `pomona`: see [`pomona::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    share_heaps();
    pomona::cli::main(std::env::args_os()).into()
}

/// Makes all threads share one heap of glibc. By default each thread gets a heap that keeps freed memory, and memory grows
/// with the number of shards. `MALLOC_ARENA_MAX` in the environment overrides this.
#[allow(unsafe_code)]
fn share_heaps() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        // SAFETY: no other thread exists yet, and the parameter only limits the number of heaps.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}
