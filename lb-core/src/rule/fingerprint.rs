//! Fingerprints of operating systems: what a SYN looks like that one of them sends. The match `osf` asks them.
//!
//! They are read from lines as OpenBSD's `pf.os` has them, which `nfnl_osf` loads:
//! `window:ttl:df:size:options:genre:version:subtype:details`. The control plane keeps them, workers have them with the tables.
//!
//! What a SYN costs a rule that asks: its options are read (40 bytes at most), its size, DF and the order of its options (a [`Shape`]) are looked up in one ordered map,
//! and what may be said of its window in the ordered list of that shape: eight binary searches among [`MOST_OF_A_SHAPE`] at most. Those that ask for a multiple of
//! something are tried one by one, of that shape alone; in `pf.os` these are two. So a flood of SYNs pays
//! hardly more for thousands of fingerprints than for one: some 800 instructions with one of its shape, 1,100 with 250 (callgrind).
//!
//! Source of the facts: pf.os(5), Linux `net/netfilter/nfnetlink_osf.c` (what is compared), `nfnl_osf` of iptables 1.8.9 (what is read), and packets given to both
//! (`tests/oracle/osf.txt`).

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};
use std::num::NonZeroU32;

use arrayvec::{ArrayString, ArrayVec};

use super::event::prefix;
use super::view::View;
use crate::wire::{be16, tcp};

/// Fingerprints that are kept.
pub const MOST: usize = 4096;
/// Of one [`Shape`].
pub const MOST_OF_A_SHAPE: usize = 256;
/// Bytes of a line: so many are read of one by the kernel's `nfnl_osf` too.
pub const LONGEST_LINE: usize = 1023;
/// Bytes of a genre, a version, a subtype: what is longer is cut off, as by the kernel.
pub const LONGEST_NAME: usize = 31;
/// Bytes of a system's name in the log: genre, version and subtype.
pub const LONGEST_SYSTEM: usize = 3 * LONGEST_NAME + 4;
/// Bytes of a TCP header's options.
const LONGEST_OPTIONS: usize = 40;
/// Fields of a line.
const FIELDS: usize = 9;

const END: u8 = 0;
const NOP: u8 = 1;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const TIMESTAMPS: u8 = 8;

/// Bytes of an option of a kind that fingerprints speak of. What an option says of its own length is not asked, as in the kernel.
const fn length(kind: u8) -> Option<usize> {
    match kind {
        END | NOP => Some(1),
        tcp::MSS => Some(4),
        WINDOW_SCALE => Some(3),
        SACK_PERMITTED => Some(2),
        TIMESTAMPS => Some(10),
        _ => None,
    }
}

/// Kinds of options, in their order: three bits each, which are never 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
struct Kinds(u128);

impl Kinds {
    /// `kind`: one that has a [`length`]; no more than 40 of them.
    fn push(&mut self, kind: u8) {
        let number = if kind == TIMESTAMPS { 6 } else { u128::from(kind) + 1 };
        self.0 = self.0 << 3 | number;
    }
}

/// What must be the same of a SYN and a fingerprint, whatever the window and the TTL.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Shape {
    /// Bytes of the IP packet.
    size: u16,
    has_df: bool,
    options: Kinds,
}

/// The window that a system's SYN has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Window {
    Any,
    Exactly(NonZeroU32),
    /// So many times the maximum segment size.
    Segments(u16),
    /// So many times the maximum segment size and the headers.
    Packets(u16),
    MultipleOf(NonZeroU32),
}

impl Window {
    fn read(text: &str) -> Option<Window> {
        let times = |text: &str| match text.strip_prefix('%').unwrap_or(text) {
            "*" => Some(0),
            text => text.parse().ok(),
        };
        match text.split_at_checked(1)? {
            ("*", "") => Some(Window::Any),
            ("S", n) => times(n).map(Window::Segments),
            ("T", n) => times(n).map(Window::Packets),
            ("%", n) => n.parse().ok().map(Window::MultipleOf),
            // 0 is any, as in the kernel.
            _ => text.parse().ok().map(|n| NonZeroU32::new(n).map_or(Window::Any, Window::Exactly)),
        }
    }
}

impl Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Window::Any => f.write_str("*"),
            Window::Exactly(n) => write!(f, "{n}"),
            Window::Segments(n) => write!(f, "S{n}"),
            Window::Packets(n) => write!(f, "T{n}"),
            Window::MultipleOf(n) => write!(f, "%{n}"),
        }
    }
}

/// One fingerprint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fingerprint {
    window: Window,
    ttl: u8,
    shape: Shape,
    /// As they are written: values of options are kept, and not compared, as in the kernel.
    options: Box<str>,
    genre: ArrayString<LONGEST_NAME>,
    version: ArrayString<LONGEST_NAME>,
    subtype: ArrayString<LONGEST_NAME>,
}

/// Why a line is no fingerprint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadFingerprint(String);

impl Display for BadFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadFingerprint {}

impl Fingerprint {
    /// Reads a line. What its last field says of the system is passed over.
    ///
    /// # Errors
    /// The field that cannot be, and what it may be.
    pub fn read(line: &str) -> Result<Fingerprint, BadFingerprint> {
        if line.len() > LONGEST_LINE {
            let len = line.len();
            return Err(BadFingerprint(format!(
                "fingerprint of {len} bytes: expected {LONGEST_LINE} at most"
            )));
        }
        let fields: Vec<&str> = line.split(':').map(str::trim).collect();
        let &[window, ttl, df, size, options, genre, version, subtype, _] = &*fields else {
            let count = fields.len();
            let message =
                format!("fingerprint {line:?}: {count} fields, expected {FIELDS} with a colon between two");
            return Err(BadFingerprint(message));
        };
        let bad = |name: &str, value: &str, expected: &str| {
            BadFingerprint(format!("fingerprint {line:?}: {name} {value:?}: expected {expected}"))
        };
        if let Some(odd) = fields.iter().find(|field| field.contains(char::is_control)) {
            return Err(bad("field", odd, "no control characters"));
        }
        let of_windows =
            "* (any), N, SN (times the segment size), TN (times the packet size) or %N (a multiple)";
        let size = if size == "*" { "0" } else { size };
        let kinds = kinds_of(options).ok_or_else(|| {
            bad(
                "options",
                options,
                "N, S, T, E, WN, MN (N may be *, %N) with commas between, 40 bytes at most, or .",
            )
        })?;
        let shape = Shape {
            has_df: df.parse::<u8>().map_err(|_| bad("df", df, "0 or 1"))? != 0,
            size: size.parse().map_err(|_| bad("size", size, "0..=65535"))?,
            options: kinds,
        };
        Ok(Fingerprint {
            window: Window::read(window).ok_or_else(|| bad("window", window, of_windows))?,
            ttl: ttl.parse().map_err(|_| bad("ttl", ttl, "0..=255"))?,
            shape,
            options: options.into(),
            // A sign says that it is no operating system's, or that of a class of programs.
            genre: name(genre.strip_prefix(['@', '*']).unwrap_or(genre)),
            version: name(version),
            subtype: name(subtype),
        })
    }

    pub fn window(&self) -> Window {
        self.window
    }

    /// That the system sends with.
    pub fn ttl(&self) -> u8 {
        self.ttl
    }

    pub fn has_df(&self) -> bool {
        self.shape.has_df
    }

    /// Bytes of the IP packet.
    pub fn size(&self) -> u16 {
        self.shape.size
    }

    pub fn options(&self) -> &str {
        &self.options
    }

    pub fn genre(&self) -> &str {
        &self.genre
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    pub fn subtype(&self) -> &str {
        &self.subtype
    }

    /// As the log has it.
    pub(crate) fn system(&self) -> ArrayString<LONGEST_SYSTEM> {
        let mut system = ArrayString::new();
        // There is room for the longest.
        let _ = write!(system, "{} [{}:{}]", self.genre, self.version, self.subtype);
        system
    }
}

/// A line that reads as this again.
impl Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fingerprint { window, ttl, shape, options, genre, version, subtype } = self;
        // Before these a sign, or a blank, would be taken off.
        let is_taken = |first: char| matches!(first, '@' | '*') || first.is_whitespace();
        let sign = if genre.starts_with(is_taken) { "@" } else { "" };
        let df = u8::from(shape.has_df);
        write!(f, "{window}:{ttl}:{df}:{}:{options}:{sign}{genre}:{version}:{subtype}:", shape.size)
    }
}

/// As much of a name as is kept, without blanks behind: a line cannot say these.
fn name(text: &str) -> ArrayString<LONGEST_NAME> {
    let cut: ArrayString<LONGEST_NAME> = prefix(text);
    prefix(cut.trim_end())
}

/// The kinds of options as a line has them; `None`: there are no such options.
fn kinds_of(options: &str) -> Option<Kinds> {
    let (mut kinds, mut len) = (Kinds::default(), 0);
    if matches!(options, "" | ".") {
        return Some(kinds);
    }
    let is_value = |text: &str| text == "*" || text.parse::<u32>().is_ok();
    for option in options.split(',').map(str::trim) {
        let (letter, value) = option.split_at_checked(1)?;
        let (kind, is_right) = match letter {
            "E" => (END, value.is_empty()),
            "N" => (NOP, value.is_empty()),
            "S" => (SACK_PERMITTED, value.is_empty()),
            // T0: stamps of 0, which nobody compares.
            "T" => (TIMESTAMPS, matches!(value, "" | "0")),
            "M" => (tcp::MSS, is_value(value.strip_prefix('%').unwrap_or(value))),
            "W" => (WINDOW_SCALE, is_value(value.strip_prefix(['%', 'S', 'T']).unwrap_or(value))),
            _ => return None,
        };
        len += length(kind)?;
        if !is_right || len > LONGEST_OPTIONS {
            return None;
        }
        kinds.push(kind);
    }
    Some(kinds)
}

/// The kinds of options (40 bytes at most), and the maximum segment size that they say at last. `None`: one is of another kind, or the last does not end.
fn read_options(bytes: &[u8]) -> Option<(Kinds, u16)> {
    let (mut kinds, mut mss, mut rest) = (Kinds::default(), 0, bytes);
    while let Some(&kind) = rest.first() {
        let (option, behind) = rest.split_at_checked(length(kind)?)?;
        if let &[tcp::MSS, _, high, low] = option {
            mss = be16(high, low);
        }
        kinds.push(kind);
        rest = behind;
    }
    Some((kinds, mss))
}

/// What fingerprints are compared with: of a SYN, and of its answer.
#[derive(Clone, Debug)]
pub(crate) struct Syn {
    shape: Shape,
    window: u16,
    /// What a fingerprint may say of that window, but for multiples: each once.
    windows: ArrayVec<Window, 8>,
    /// Without a segment size it is as many times nothing as anybody says.
    is_nothing: bool,
}

impl Syn {
    /// `None`: it is no SYN, or one that no fingerprint can fit.
    pub(crate) fn of(view: &View<'_>) -> Option<Syn> {
        if view.headers.tcp_flags & tcp::SYN == 0 {
            return None;
        }
        let header = view.tcp()?;
        let (options, mss) = read_options(header.get(tcp::LEN..)?)?;
        let shape = Shape { size: view.headers.ip_len as u16, has_df: view.headers.dont_fragment, options };
        Some(Syn::new(shape, be16(header[14], header[15]), mss))
    }

    /// `mss`: as it says it; 0: it does not. As in the kernel, who says another one on the way (1460, 1448) may be who it is all the same.
    fn new(shape: Shape, window: u16, mss: u16) -> Syn {
        const HEADERS: u16 = 40;
        let is_nothing = window == 0 && mss == 0;
        let mut windows = ArrayVec::from_iter([Window::Any]);
        let mut may_be = |asked| {
            if !windows.contains(&asked) {
                // There is room for all that there may be.
                let _ = windows.try_push(asked);
            }
        };
        if let Some(window) = NonZeroU32::new(window.into()) {
            may_be(Window::Exactly(window));
        }
        let times = |size: u16| (window.checked_rem(size) == Some(0)).then(|| window / size);
        for size in [mss, 1460, 1448] {
            if let Some(n) = times(size).filter(|_| !is_nothing) {
                may_be(Window::Segments(n));
            }
            // A packet of more than 65,535 bytes is larger than any window but that of 0.
            if let Some(n) = size.checked_add(HEADERS).map_or((window == 0).then_some(0), times) {
                may_be(Window::Packets(n));
            }
        }
        Syn { shape, window, windows, is_nothing }
    }
}

/// Why there is no room for a fingerprint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// [`MOST`] are there.
    All,
    /// [`MOST_OF_A_SHAPE`] with the same size, DF and options are there.
    Shape,
}

/// Those of one shape.
#[derive(Clone, Debug, Default)]
struct Alike {
    /// In the order in which they were added, each with its place among all.
    all: Vec<(u64, Fingerprint)>,
    /// Their windows in order, each with the place in `all`.
    windows: Vec<(Window, u16)>,
}

impl Alike {
    fn add(&mut self, place: u64, new: Fingerprint) {
        let window = (new.window, self.all.len() as u16);
        let at = self.windows.partition_point(|other| *other < window);
        self.windows.insert(at, window);
        self.all.push((place, new));
    }

    fn remove(&mut self, old: &Fingerprint) -> bool {
        let Some(at) = self.all.iter().position(|(_, other)| other == old) else { return false };
        self.all.remove(at);
        self.windows = self.all.iter().zip(0..).map(|((_, one), at)| (one.window, at)).collect();
        self.windows.sort_unstable();
        true
    }

    /// Those that say this of the window, and all behind them.
    fn behind(&self, window: Window) -> &[(Window, u16)] {
        let at = self.windows.partition_point(|(other, _)| *other < window);
        self.windows.get(at..).unwrap_or_default()
    }

    /// Places of those that a SYN fits, in their order.
    fn fitting(&self, syn: &Syn) -> ArrayVec<u16, MOST_OF_A_SHAPE> {
        let mut found = ArrayVec::new();
        let mut take = |fit: &mut dyn Iterator<Item = &(Window, u16)>| {
            for (_, at) in fit {
                // Each is found once: there is room.
                let _ = found.try_push(*at);
            }
        };
        for window in &syn.windows {
            take(&mut self.behind(*window).iter().take_while(|(other, _)| other == window));
        }
        if syn.is_nothing {
            let segments = self.behind(Window::Segments(0)).iter();
            take(&mut segments.take_while(|(other, _)| matches!(other, Window::Segments(_))));
        }
        let is_multiple = |(other, _): &&(Window, u16)| match other {
            Window::MultipleOf(n) => u32::from(syn.window).is_multiple_of(n.get()),
            _ => false,
        };
        take(&mut self.behind(Window::MultipleOf(NonZeroU32::MIN)).iter().filter(is_multiple));
        found.sort_unstable();
        found
    }
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Fingerprints {
    shapes: BTreeMap<Shape, Alike>,
    count: usize,
    next: u64,
}

impl Fingerprints {
    /// Adds one behind the others. False: it is there already.
    ///
    /// # Errors
    /// There is no room.
    pub fn add(&mut self, new: Fingerprint) -> Result<bool, Full> {
        let alike = self.shapes.get(&new.shape).map(|alike| &*alike.all).unwrap_or_default();
        if alike.iter().any(|(_, other)| *other == new) {
            return Ok(false);
        }
        if self.count == MOST {
            return Err(Full::All);
        }
        if alike.len() == MOST_OF_A_SHAPE {
            return Err(Full::Shape);
        }
        self.shapes.entry(new.shape).or_default().add(self.next, new);
        self.next += 1;
        self.count += 1;
        Ok(true)
    }

    /// False: it is not there.
    pub fn remove(&mut self, old: &Fingerprint) -> bool {
        let Some(alike) = self.shapes.get_mut(&old.shape) else { return false };
        if !alike.remove(old) {
            return false;
        }
        if alike.all.is_empty() {
            self.shapes.remove(&old.shape);
        }
        self.count -= 1;
        true
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// In the order in which they were added.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Fingerprint> {
        let mut all: Vec<_> = self.shapes.values().flat_map(|alike| &alike.all).collect();
        all.sort_unstable_by_key(|(place, _)| *place);
        all.into_iter().map(|(_, fingerprint)| fingerprint)
    }

    /// Those that a SYN fits, whatever its TTL, in the order in which they were added.
    pub(crate) fn fitting(&self, syn: &Syn) -> impl Iterator<Item = &Fingerprint> {
        self.shapes.get(&syn.shape).into_iter().flat_map(|alike| {
            let found = alike.fitting(syn).into_iter();
            found.filter_map(|at| Some(&alike.all.get(usize::from(at))?.1))
        })
    }
}

#[cfg(test)]
mod tests;
