//! Huge pages for the measures: what is there, or reserved for as long as they take.

use std::fs;

const RESERVED: &str = "/proc/sys/vm/nr_hugepages";
/// What the largest measure takes, in pages of 2 MB.
const WANTED: usize = 1024;

/// Reserved huge pages.
pub(crate) struct HugePages {
    /// How many there were, when more were reserved.
    before: Option<usize>,
    pub(crate) is_there: bool,
}

impl HugePages {
    /// Takes what is free, and as root more where that is not enough.
    pub(crate) fn reserve() -> HugePages {
        let (free, all) = (count("HugePages_Free:"), count("HugePages_Total:"));
        let is_usual = count("Hugepagesize:") == 2048;
        if !is_usual || free >= WANTED {
            return HugePages { before: None, is_there: is_usual };
        }
        let is_written = fs::write(RESERVED, (all - free + WANTED).to_string()).is_ok();
        HugePages { before: is_written.then_some(all), is_there: count("HugePages_Free:") >= WANTED }
    }

    pub(crate) fn describe(&self) -> String {
        match (self.is_there, self.before) {
            (true, Some(_)) => "huge pages of 2 MB, reserved for this run".to_owned(),
            (true, None) => "huge pages of 2 MB".to_owned(),
            (false, _) => format!("transparent huge pages: {WANTED} huge pages of 2 MB are not to be had"),
        }
    }

    /// Gives back those that were not there before.
    pub(crate) fn give_back(&self) {
        if let Some(before) = self.before
            && let Err(error) = fs::write(RESERVED, before.to_string())
        {
            eprintln!("bench: {RESERVED} is not {before} again: {error}");
        }
    }
}

/// A figure of `/proc/meminfo`.
fn count(label: &str) -> usize {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
