//! What happened, step by step: the last events for the report, and a digest of all for comparing runs.

use std::collections::VecDeque;
use std::fmt;

use crate::draw::mix;

/// Events that a report shows.
const SHOWN: usize = 20;

/// Something that happened: a word, and up to four numbers that say to what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    pub step: u64,
    pub micros: u64,
    pub what: &'static str,
    pub detail: Detail,
}

/// The names of the numbers, and the numbers.
pub type Detail = (&'static str, [u64; 4]);

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (names, numbers) = self.detail;
        write!(
            f,
            "step {} at {}.{:06} s: {}",
            self.step,
            self.micros / 1_000_000,
            self.micros % 1_000_000,
            self.what
        )?;
        for (name, number) in names.split_whitespace().zip(numbers) {
            write!(f, " {name}={number}")?;
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Events {
    last: VecDeque<Event>,
    digest: u64,
    count: u64,
    /// Every event is printed.
    pub is_shown: bool,
}

impl Events {
    pub fn note(&mut self, event: Event) {
        let Event { step, micros, what, detail: (_, numbers) } = event;
        let first =
            what.bytes().fold(0u64, |hash, byte| hash.wrapping_mul(131).wrapping_add(u64::from(byte)));
        for number in [first, step, micros].into_iter().chain(numbers) {
            self.digest = mix(self.digest ^ number).wrapping_add(self.digest.rotate_left(7));
        }
        self.count += 1;
        if self.is_shown {
            println!("{event}");
        }
        if self.last.len() == SHOWN {
            self.last.pop_front();
        }
        self.last.push_back(event);
    }

    /// The same for two runs if and (but for one chance in 2⁶⁴) only if the same happened.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn last(&self) -> impl Iterator<Item = &Event> {
        self.last.iter()
    }
}
