//! CPUs and privileges of this process.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::mem::{size_of, zeroed};

/// The CPUs that the calling thread may run on.
#[derive(Clone)]
pub(crate) struct CpuSet(libc::cpu_set_t);

impl CpuSet {
    pub(crate) fn usable() -> io::Result<CpuSet> {
        // SAFETY: a cpu_set_t is plain bits; the kernel writes at most its size.
        unsafe {
            let mut set: libc::cpu_set_t = zeroed();
            match libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) {
                0 => Ok(CpuSet(set)),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }

    /// Those of the machine that are online; `None`: it does not say.
    pub(crate) fn online() -> Option<CpuSet> {
        Some(CpuSet::listed(&fs::read_to_string("/sys/devices/system/cpu/online").ok()?))
    }

    /// Those of a list of the kernel's: `0-3,8`.
    fn listed(list: &str) -> CpuSet {
        let number = |text: &str| text.parse::<u32>().ok();
        let ranges = list.trim().split(',').filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(number(first)?..=number(last)?.min(Self::MOST as u32))
        });
        CpuSet::of(&ranges.flatten().collect::<Vec<_>>())
    }

    pub(crate) fn of(cpus: &[u32]) -> CpuSet {
        // SAFETY: a cpu_set_t is plain bits; CPU_SET is not asked for what is beyond its size.
        unsafe {
            let mut set: libc::cpu_set_t = zeroed();
            cpus.iter()
                .filter(|cpu| (**cpu as usize) < Self::MOST)
                .for_each(|cpu| libc::CPU_SET(*cpu as usize, &mut set));
            CpuSet(set)
        }
    }

    /// Those that are not among `cpus`; all when there are no others.
    pub(crate) fn besides(&self, cpus: &[u32]) -> CpuSet {
        let rest: Vec<u32> = self.iter().filter(|cpu| !cpus.contains(cpu)).collect();
        if rest.is_empty() { self.clone() } else { CpuSet::of(&rest) }
    }

    pub(crate) fn has(&self, cpu: u32) -> bool {
        // SAFETY: the index is within the set.
        (cpu as usize) < Self::MOST && unsafe { libc::CPU_ISSET(cpu as usize, &self.0) }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        (0..Self::MOST as u32).filter(|&cpu| self.has(cpu))
    }

    const MOST: usize = libc::CPU_SETSIZE as usize;

    /// Restricts the calling thread to these CPUs.
    pub(crate) fn apply(&self) -> io::Result<()> {
        // SAFETY: the kernel reads the set's size at most.
        match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &self.0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// As in the kernel's lists: `0-3,8`.
    pub(crate) fn to_text(&self) -> String {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for cpu in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        let texts: Vec<_> = ranges
            .into_iter()
            .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
            .collect();
        texts.join(",")
    }
}

/// Binds the calling thread to one CPU, and lets its short sleeps be as short as asked.
pub(crate) fn pin(cpu: u32) -> io::Result<()> {
    CpuSet::of(&[cpu]).apply()?;
    // SAFETY: sets this thread's timer slack to 1 ns; no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    Ok(())
}

/// Does something on this CPU, where this process may run there: memory that it asks the kernel for is then of the CPU's NUMA node, as long as there
/// is some.
pub(crate) fn at<T>(cpu: u32, work: impl FnOnce() -> T) -> T {
    let before = CpuSet::usable();
    let _ = CpuSet::of(&[cpu]).apply();
    let done = work();
    if let Ok(before) = before {
        let _ = before.apply();
    }
    done
}

/// True when the kernel keeps other threads away from this CPU (`isolcpus`).
pub(crate) fn is_isolated(cpu: u32) -> bool {
    CpuSet::listed(&fs::read_to_string("/sys/devices/system/cpu/isolated").unwrap_or_default()).has(cpu)
}

/// A Linux capability, by its number in `capabilities(7)`.
#[derive(Clone, Copy)]
pub(crate) enum Capability {
    NetAdmin = 12,
    NetRaw = 13,
}

/// True when this process has the capability, as root has.
pub(crate) fn has_capability(capability: Capability) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|bits| bits >> capability as u32 & 1 == 1)
}

/// The index of a network interface, when it is there.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: `name` ends in a zero byte.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cpus_is_read_as_it_is_written() {
        for list in ["", "0", "0-3,8", "1,3,5-7"] {
            assert_eq!(CpuSet::listed(list).to_text(), list);
        }
        assert_eq!(CpuSet::listed("0-1,x,2-,7-4294967295\n").to_text(), "0-1,7-1023");
    }

    #[test]
    fn a_thread_that_is_pinned_may_use_that_cpu_alone() {
        let first = CpuSet::usable().unwrap().iter().next().unwrap();
        std::thread::spawn(move || {
            pin(first).unwrap();
            let now = CpuSet::usable().unwrap();
            assert_eq!(now.iter().collect::<Vec<_>>(), [first]);
            assert_eq!(now.to_text(), first.to_string());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn what_is_done_at_a_cpu_is_done_there_and_the_thread_has_its_cpus_again() {
        let list = || CpuSet::usable().unwrap().to_text();
        let before = list();
        for cpu in CpuSet::usable().unwrap().iter() {
            assert_eq!(at(cpu, list), cpu.to_string());
            assert_eq!(list(), before);
        }
        assert_eq!(at(u32::MAX, list), before, "none such");
    }

    #[test]
    fn cpus_are_listed_in_ranges() {
        let set = CpuSet::of(&[0, 1, 2, 5, 7, 8, u32::MAX]);
        assert_eq!(set.to_text(), "0-2,5,7-8");
        assert!(!set.has(u32::MAX));
        assert_eq!(set.besides(&[1, 5, 9]).to_text(), "0,2,7-8");
        assert_eq!(set.besides(&[0, 1, 2, 5, 7, 8]).to_text(), "0-2,5,7-8", "some must be left");
    }

    #[test]
    fn the_loopback_interface_exists_and_another_does_not() {
        assert!(interface_index("lo").is_some());
        assert!(interface_index("no such one").is_none());
    }
}
