//! Memory that is given back to the system.

/// Gives back the memory of a constant that is not needed for now, such as a model that has been read. Its pages count for the
/// process once they are read; read again, they come from the file again.
///
/// Returns whether that was done: only on Linux, and only if the memory is that of a file which the process cannot write to.
pub fn release(constant: &'static [u8]) -> bool {
    #[cfg(target_os = "linux")]
    if let Some(pages) = whole_pages(constant)
        && std::fs::read_to_string("/proc/self/maps").is_ok_and(|maps| is_of_file(&maps, pages))
    {
        // SAFETY: The pages are a private mapping of a file and have nothing but bytes of the constant, which no one has written
        // to: read again, they are the same.
        return unsafe { libc::madvise(pages.as_ptr().cast_mut().cast(), pages.len(), libc::MADV_DONTNEED) == 0 };
    }
    let _ = constant;
    false
}

/// Gives back the pages of the heap that have nothing but freed blocks. That takes some milliseconds, so it is of use where a large
/// piece of work has ended. Only glibc can do it.
pub fn release_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: The function locks the heap, and changes no block that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The pages that have nothing else, if there are any.
#[cfg(target_os = "linux")]
fn whole_pages(constant: &'static [u8]) -> Option<&'static [u8]> {
    // SAFETY: This call only reads a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    let start = constant.as_ptr().addr();
    let before = start.next_multiple_of(page) - start;
    let behind = (start + constant.len()) % page;
    constant.get(before..constant.len().checked_sub(behind)?).filter(|pages| !pages.is_empty())
}

/// Whether a line of `/proc/self/maps` says that these bytes are those of a file, without the right to write.
#[cfg(target_os = "linux")]
fn is_of_file(maps: &str, bytes: &[u8]) -> bool {
    let std::ops::Range { start, end } = bytes.as_ptr_range();
    is_part_of_file(maps, start.addr(), end.addr())
}

#[cfg(target_os = "linux")]
fn is_part_of_file(maps: &str, start: usize, end: usize) -> bool {
    maps.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace();
        let range = fields.next().and_then(|range| range.split_once('-'));
        let range = range.and_then(|(from, to)| Some((address(from)?, address(to)?)));
        let is_private_constant = fields.next().is_some_and(|rights| matches!(rights, "r--p" | "r-xp"));
        // An offset, a device, and the number of the file, which is 0 for memory without one.
        let has_file = fields.nth(2).is_some_and(|inode| inode != "0");
        is_private_constant && has_file && range.is_some_and(|(from, to)| from <= start && end <= to)
    })
}

#[cfg(target_os = "linux")]
fn address(text: &str) -> Option<usize> {
    usize::from_str_radix(text, 16).ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Whole pages of the program, which no other test reads.
    static LARGE: [u8; 1 << 16] = {
        let mut bytes = [0; 1 << 16];
        let mut at = 0;
        while at < bytes.len() {
            bytes[at] = (at % 251) as u8;
            at += 1;
        }
        bytes
    };

    #[test]
    fn a_constant_has_its_bytes_after_its_release() {
        let is_whole = |bytes: &[u8]| bytes.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8);
        assert!(is_whole(&LARGE));
        assert!(release(&LARGE));
        assert!(is_whole(&LARGE));
        assert!(!release(&LARGE[..16]), "less than a page");
    }

    /// Memory of the process that no file has, in bytes.
    #[cfg(target_env = "gnu")]
    fn resident() -> Option<usize> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        line.trim().trim_end_matches(" kB").parse::<usize>().ok().map(|kilobytes| kilobytes << 10)
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn freed_blocks_between_others_are_given_back() {
        const BLOCK: usize = 32 << 10;
        let mut blocks: Vec<Vec<u8>> = (0..4_096).map(|_| vec![1; BLOCK]).collect();
        // So that the end of the heap is in use, and what is freed is not given back by itself.
        let mut number = 0;
        blocks.retain(|_| {
            number += 1;
            number % 16 == 0
        });
        let before = resident().unwrap();
        release_freed();
        let given_back = before.saturating_sub(resident().unwrap());
        assert!(given_back > 1_024 * BLOCK, "{given_back} bytes");
        assert!(blocks.iter().flatten().all(|byte| *byte == 1));
    }

    #[test]
    fn memory_without_a_file_is_kept() {
        let leaked: &'static [u8] = Box::leak(vec![7; 1 << 16].into_boxed_slice());
        assert!(!release(leaked));
        assert!(leaked.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn only_private_constants_of_files_are_recognised() {
        let maps = "1000-3000 r--p 00001000 fe:00 42   /program\n3000-5000 rw-p 00000000 fe:00 42 /program\n\
                    5000-7000 r--p 00000000 00:00 0\n7000-9000 r--s 00000000 fe:00 42 /program\nbroken\n";
        assert!(is_part_of_file(maps, 0x1000, 0x3000) && is_part_of_file(maps, 0x2000, 0x3000));
        for (start, end) in [(0x2000, 0x4000), (0x3000, 0x4000), (0x5000, 0x6000), (0x7000, 0x8000), (0x9000, 0xa000)] {
            assert!(!is_part_of_file(maps, start, end), "{start:x}");
        }
    }
}
