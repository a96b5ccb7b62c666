//! `srh`: IPv6's segment routing header (RFC 8754 §2).
//!
//! Source of the facts: Linux, `net/ipv6/netfilter/ip6t_srh.c`; what is printed: recorded from ip6tables 1.8.9.

use super::Match;
use crate::rule::chain6::{Chain6, ROUTING};
use crate::rule::options::Prefix;
use crate::rule::prelude::*;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct SegmentRouting {
    /// What is compared with one field, in the order in which it is printed.
    fields: Vec<Test>,
    /// Previous, next and last segment.
    segments: [Option<(Prefix, bool)>; 3],
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Test {
    /// Which of [`TESTS`].
    of: u8,
    value: u16,
    is_not: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Compared {
    Equal,
    Greater,
    Less,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Field {
    NextHeader,
    Len,
    Left,
    Last,
    Tag,
}

use Compared::{Equal, Greater, Less};

/// By option: its name without `srh-`.
const TESTS: [(&str, Field, Compared); 11] = [
    ("next-hdr", Field::NextHeader, Equal),
    ("hdr-len-eq", Field::Len, Equal),
    ("hdr-len-gt", Field::Len, Greater),
    ("hdr-len-lt", Field::Len, Less),
    ("segs-left-eq", Field::Left, Equal),
    ("segs-left-gt", Field::Left, Greater),
    ("segs-left-lt", Field::Left, Less),
    ("last-entry-eq", Field::Last, Equal),
    ("last-entry-gt", Field::Last, Greater),
    ("last-entry-lt", Field::Last, Less),
    ("tag", Field::Tag, Equal),
];

const SEGMENTS: [&str; 3] = ["psid", "nsid", "lsid"];

/// The routing header's type.
const KIND: u8 = 4;

impl Test {
    fn name(self) -> &'static str {
        TESTS[usize::from(self.of)].0
    }
}

impl Extension for SegmentRouting {
    const NAME: &'static str = "srh";
    const OPTIONS: &'static [Opt] = &[
        opt("srh-next-hdr", 0).negatable(),
        opt("srh-hdr-len-eq", 1).negatable(),
        opt("srh-hdr-len-gt", 2).negatable(),
        opt("srh-hdr-len-lt", 3).negatable(),
        opt("srh-segs-left-eq", 4).negatable(),
        opt("srh-segs-left-gt", 5).negatable(),
        opt("srh-segs-left-lt", 6).negatable(),
        opt("srh-last-entry-eq", 7).negatable(),
        opt("srh-last-entry-gt", 8).negatable(),
        opt("srh-last-entry-lt", 9).negatable(),
        opt("srh-tag", 10).negatable(),
        opt("srh-psid", 11).negatable(),
        opt("srh-nsid", 12).negatable(),
        opt("srh-lsid", 13).negatable(),
    ];
    const FAMILY: Option<Family> = Some(Family::Ipv6);

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let (of, is_not) = (given.id(), given.is_negated);
        let Some(&(_, field, _)) = TESTS.get(usize::from(of)) else {
            self.segments[usize::from(of) - TESTS.len()] = Some((given.prefix()?, is_not));
            return Ok(());
        };
        let value = if field == Field::Tag { given.u16()? } else { given.u8()?.into() };
        // iptables has one value a field: the last one that is given.
        for test in self.fields.iter_mut().filter(|test| TESTS[usize::from(test.of)].1 == field) {
            test.value = value;
        }
        self.fields.push(Test { of, value, is_not });
        self.fields.sort_unstable_by_key(|test| test.of);
        Ok(())
    }

    fn save(&self, out: &mut String, family: Family) {
        for test in &self.fields {
            put!(out, "{} --srh-{} {}", not(test.is_not), test.name(), test.value);
        }
        for (name, segment) in SEGMENTS.iter().zip(self.segments) {
            if let Some((prefix, is_not)) = segment {
                put!(out, "{} --srh-{name} {}", not(is_not), prefix.shown(family));
            }
        }
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        out.push_str(" srh");
        for test in &self.fields {
            put!(out, " {}:{}{}", test.name(), if test.is_not { "!" } else { "" }, test.value);
        }
        for (name, segment) in SEGMENTS.iter().zip(self.segments) {
            if let Some((prefix, is_not)) = segment {
                put!(out, " {name} {} {}", if is_not { "!" } else { "" }, prefix.shown(style.family));
            }
        }
    }
}

impl SegmentRouting {
    /// `None`: what it says of itself is not so.
    fn holds(&self, header: &[u8]) -> Option<bool> {
        let (&[next, len, _, left, last, _, tag @ ..], list) = header.split_first_chunk::<8>()?;
        let (segments, _) = list.as_chunks::<16>();
        if left > last {
            return None;
        }
        let fields = self.fields.iter().all(|test| {
            let (_, field, compared) = TESTS[usize::from(test.of)];
            let found = match field {
                Field::NextHeader => next.into(),
                Field::Len => len.into(),
                Field::Left => left.into(),
                Field::Last => last.into(),
                Field::Tag => u16::from_be_bytes(tag),
            };
            let holds = match compared {
                Equal => found == test.value,
                Greater => found > test.value,
                Less => found < test.value,
            };
            holds != test.is_not
        });
        // They stand in the list from the last to the first.
        let places = [left.checked_add(1).filter(|previous| *previous <= last), left.checked_sub(1), Some(0)];
        let segments = self.segments.iter().zip(places).all(|(wanted, place)| match (wanted, place) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((prefix, is_not)), Some(place)) => segments
                .get(usize::from(place))
                .is_some_and(|found| prefix.has(u128::from_be_bytes(*found), Family::Ipv6) != *is_not),
        });
        Some(fields && segments)
    }
}

impl Match for SegmentRouting {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let header = Chain6::find(view, ROUTING).filter(|header| header.get(2) == Some(&KIND));
        header.and_then(|header| self.holds(header)).unwrap_or(false)
    }
}
