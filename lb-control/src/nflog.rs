//! What `NFLOG` rules want kept: a pcapng file a group, `nflog-GROUP.pcapng` in the directory of the config, the ones before it with a number.
//!
//! A packet's comment has the rule's prefix, the hook, both interfaces and the mark; its interface is the one that it came by, or else the one by which it
//! leaves. Each opening of a file begins a section of it.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hashbrown::HashMap;
use lb_core::path::as_seen;
use lb_core::rule::capture::{Captured, Captures};
use lb_core::rule::chain_name;
use lb_core::tables::{InterfaceId, Interfaces};
use lb_core::time::Tick;
use tracing::{info, warn};

use crate::config::Nflog;
use crate::pcapng::{self, Packet, Way};
use crate::sandbox;

/// Packets that wait to be written with others, at most, and how long.
const THRESHOLD: u16 = 100;
const PATIENCE: Duration = Duration::from_secs(1);
/// Files that are open at a time.
const OPEN: usize = 32;
/// How long nothing is tried when it failed.
const PAUSE: Duration = Duration::from_secs(1);
const MEBIBYTE: u64 = 1 << 20;

/// A group's file.
struct Group {
    file: File,
    /// That are in it for good.
    len: u64,
    /// The section's interfaces, in their order.
    interfaces: Vec<String>,
    waiting: Vec<u8>,
    packets: u16,
    /// Since when some wait.
    since: Instant,
}

/// Writes the files.
pub(crate) struct Writer {
    config: Nflog,
    groups: HashMap<u16, Group>,
    /// Nothing is tried before.
    pause: Option<Instant>,
}

/// The clocks of one moment.
#[derive(Clone, Copy)]
pub(crate) struct Now {
    pub(crate) tick: Tick,
    /// Microseconds from 1970.
    pub(crate) wall: u64,
}

impl Now {
    pub(crate) fn read() -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { tick: crate::sets::now(), wall: wall.as_micros() as u64 }
    }

    fn wall_at(self, tick: Tick) -> u64 {
        const MICROS: u64 = 1_000_000 / Tick::PER_SECOND as u64;
        self.wall.saturating_sub(u64::from(self.tick.since(tick)) * MICROS)
    }
}

impl Writer {
    pub(crate) fn new(config: Nflog) -> Writer {
        Writer { config, groups: HashMap::new(), pause: None }
    }

    /// Goes by another config from here on.
    pub(crate) fn follow(&mut self, config: &Nflog, captures: &Captures) {
        if self.config != *config {
            self.end(captures);
            self.config = config.clone();
            self.pause = None;
        }
    }

    /// Takes one packet; it is in its file a second later at the latest, if [`turn`](Self::turn) is asked so often.
    pub(crate) fn put(&mut self, captured: Captured, interfaces: &Interfaces, now: Now, captures: &Captures) {
        if self.pause.is_some_and(|until| Instant::now() < until) {
            return captures.unwritten.add(1);
        }
        if let Err(error) = self.try_put(captured, interfaces, now, captures) {
            captures.unwritten.add(1);
            self.fail(&error);
        }
    }

    /// Writes what has waited for long enough.
    pub(crate) fn turn(&mut self, captures: &Captures) {
        let due = |group: &Group| group.packets > 0 && group.since.elapsed() >= PATIENCE;
        self.write(due, captures);
    }

    /// Writes all that waits, and closes the files.
    pub(crate) fn end(&mut self, captures: &Captures) {
        self.write(|_| true, captures);
        self.groups.clear();
    }

    fn write(&mut self, which: impl Fn(&Group) -> bool, captures: &Captures) {
        let mut failed = None;
        self.groups.retain(|_, group| {
            let outcome = if which(group) { group.flush(captures) } else { Ok(()) };
            outcome.map_err(|error| failed = Some(error)).is_ok()
        });
        if let Some(error) = failed {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &io::Error) {
        if self.pause.is_none() {
            let directory = self.config.directory.display();
            warn!(%directory, %error, "packets of NFLOG rules are not kept{}", sandbox::hint(error));
        }
        self.pause = Some(Instant::now() + PAUSE);
    }

    fn try_put(
        &mut self,
        captured: Captured,
        interfaces: &Interfaces,
        now: Now,
        captures: &Captures,
    ) -> io::Result<()> {
        let number = captured.wanted.group;
        let most = u64::from(self.config.file_mb) * MEBIBYTE;
        let is_full = |group: &Group| group.len + group.waiting.len() as u64 >= most;
        if self.groups.get(&number).is_some_and(is_full)
            && let Some(mut full) = self.groups.remove(&number)
        {
            full.flush(captures)?;
        }
        if !self.groups.contains_key(&number) {
            self.make_room(captures)?;
            let group = Group::open(&self.config, number)?;
            if self.pause.take().is_some() {
                info!(directory = %self.config.directory.display(), "packets of NFLOG rules are kept again");
            }
            self.groups.insert(number, group);
        }
        let Some(group) = self.groups.get_mut(&number) else { return Ok(()) };
        let threshold = match captured.wanted.threshold {
            0 => THRESHOLD,
            threshold => threshold.min(THRESHOLD),
        };
        group.put(captured, interfaces, now);
        if group.packets < threshold {
            return Ok(());
        }
        // Those that are lost are counted there.
        group.flush(captures).or_else(|error| {
            self.groups.remove(&number);
            self.fail(&error);
            Ok(())
        })
    }

    /// Closes the file that was written to longest ago, if one more would be too many.
    fn make_room(&mut self, captures: &Captures) -> io::Result<()> {
        if self.groups.len() < OPEN {
            return Ok(());
        }
        let oldest = self.groups.iter().min_by_key(|(_, group)| group.since).map(|(number, _)| *number);
        let group = oldest.and_then(|oldest| self.groups.remove(&oldest));
        group.map_or(Ok(()), |mut group| group.flush(captures))
    }
}

fn path(directory: &Path, group: u16, age: u32) -> PathBuf {
    directory.join(match age {
        0 => format!("nflog-{group}.pcapng"),
        age => format!("nflog-{group}.{age}.pcapng"),
    })
}

impl Group {
    /// Opens a group's file, behind what is in it; a full one becomes the youngest of those before it.
    fn open(config: &Nflog, group: u16) -> io::Result<Group> {
        let path = |age| path(&config.directory, group, age);
        fs::DirBuilder::new().recursive(true).mode(0o750).create(&config.directory)?;
        let is_full = fs::metadata(path(0)).is_ok_and(|at| at.len() >= u64::from(config.file_mb) * MEBIBYTE);
        if is_full && config.files == 1 {
            fs::remove_file(path(0))?;
        } else if is_full {
            for age in (0..config.files - 1).rev() {
                // There may be fewer.
                match fs::rename(path(age), path(age + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path(0))?;
        let len = file.metadata()?.len();
        let mut waiting = Vec::new();
        pcapng::section(&mut waiting, concat!("lbd ", env!("CARGO_PKG_VERSION")));
        Ok(Group { file, len, interfaces: Vec::new(), waiting, packets: 0, since: Instant::now() })
    }

    fn put(&mut self, captured: Captured, interfaces: &Interfaces, now: Now) {
        let Captured { wanted, hook, input, output, mark, tuple, hops, at, mut frame, headers } = captured;
        let name = |id: Option<InterfaceId>| {
            id.and_then(|id| interfaces.get(id)).map_or("", |interface| interface.name.as_str())
        };
        let (way, main) = if input.is_some() { (Way::Inbound, input) } else { (Way::Outbound, output) };
        let interface = self.interface(name(main));
        as_seen(&mut frame, &headers, &tuple, hops);
        let mut comment = String::new();
        if !wanted.prefix.is_empty() {
            let _ = write!(comment, "{:?} ", wanted.prefix);
        }
        let _ = write!(comment, "{} IN={} OUT={}", chain_name(hook), name(input), name(output));
        if mark != 0 {
            let _ = write!(comment, " MARK={mark:#x}");
        }
        let size = wanted.size.map_or(usize::MAX, |size| size as usize);
        let kept = frame.len().min(headers.end()).min(usize::from(headers.l3).saturating_add(size));
        let packet = Packet {
            interface,
            at: now.wall_at(at),
            frame: &frame[..kept],
            len: headers.end() as u32,
            way,
            comment: &comment,
        };
        pcapng::packet(&mut self.waiting, &packet);
        if self.packets == 0 {
            self.since = Instant::now();
        }
        self.packets += 1;
    }

    /// The number of an interface in this section, which it gets at its first packet.
    fn interface(&mut self, name: &str) -> u32 {
        let known = self.interfaces.iter().position(|known| known == name);
        let number = known.unwrap_or_else(|| {
            self.interfaces.push(name.to_owned());
            pcapng::interface(&mut self.waiting, name);
            self.interfaces.len() - 1
        });
        number as u32
    }

    /// Writes what waits; when that fails, the file is as it was before, and not to be used again.
    fn flush(&mut self, captures: &Captures) -> io::Result<()> {
        let packets = u64::from(std::mem::take(&mut self.packets));
        if packets == 0 {
            return Ok(());
        }
        let outcome = self.file.write_all(&self.waiting);
        match outcome {
            Ok(()) => {
                self.len += self.waiting.len() as u64;
                captures.written.add(packets);
            }
            Err(_) => {
                captures.unwritten.add(packets);
                // Half a block would hide what comes behind it.
                self.file.set_len(self.len)?;
            }
        }
        self.waiting.clear();
        outcome
    }
}

#[cfg(test)]
mod tests;
