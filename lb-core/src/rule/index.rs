//! Which rules of a long chain can match a packet: found without asking each.
//!
//! A bit vector has a bit a rule. For each [`Field`] that rules of the chain narrow, the values are cut into classes that no rule tells apart, and a
//! class has the vector of the rules that take it; what all vectors of a packet have in common are the rules to be asked (Lakshman and Stiliadis,
//! "High-Speed Policy-Based Packet Forwarding", SIGCOMM 1998). Vectors of many classes differ in few bits: a class keeps the words in which
//! it differs from the vector of those rules that take any value, and the search leaps from a word in which all have something to the next.
//!
//! It is a sieve that lets too much through and never too little. What a rule is besides its narrowed fields, in which order rules are asked and what
//! they do is the walk's (`walk.rs`), and the walk without an index is what this one is compared with.

use super::header::{Header, Net};
use super::line::Rule;
use super::view::View;
use super::{Depends, Family};

/// A chain with no more rules than this is asked rule by rule.
pub(super) const SHORT: usize = 16;
/// Words of all classes of a field: so many a rule at most. Rules that are in the most classes count as taking any value beyond it.
const WORDS_A_RULE: usize = 16;

/// What of a packet an index asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Field {
    Source,
    Destination,
    Protocol,
    SourcePort,
    DestinationPort,
    Input,
    Output,
}

impl Field {
    /// Those of numbers; those of names follow.
    const NUMBERS: [Field; 5] =
        [Field::Source, Field::Destination, Field::DestinationPort, Field::SourcePort, Field::Protocol];
    const ALL: usize = 7;
}

/// Values from the first to the second, both included.
type Range = (u128, u128);

/// What a rule narrows its packets to, without asking anything that remembers.
#[derive(Default)]
pub(crate) struct Narrowed<'r> {
    numbers: [Option<Vec<Range>>; Field::NUMBERS.len()],
    input: Option<&'r str>,
    output: Option<&'r str>,
}

impl<'r> Narrowed<'r> {
    fn of(rule: &'r Rule, family: Family) -> Narrowed<'r> {
        let mut narrowed = Narrowed::default();
        narrowed.header(&rule.header, family);
        for found in &rule.matches {
            found.narrow(&mut narrowed);
            // What comes behind it is asked only if it says yes, and it is to be asked of every packet that comes so far.
            if found.depends() == Depends::Memory {
                break;
            }
        }
        narrowed
    }

    fn header(&mut self, header: &'r Header, family: Family) {
        for (field, net) in [(Field::Source, &header.source), (Field::Destination, &header.destination)] {
            if let Some(range) = range(net, family) {
                self.one_of(field, vec![range]);
            }
        }
        if header.protocol != 0 && !header.is_not_protocol {
            let protocol = header.protocol.into();
            self.one_of(Field::Protocol, vec![(protocol, protocol)]);
        }
        let name = |interface: &'r super::header::Interface| {
            (!interface.is_not && !interface.name.is_empty() && !interface.name.ends_with('+'))
                .then_some(&*interface.name)
        };
        (self.input, self.output) = (name(&header.input), name(&header.output));
    }

    /// One of these ranges. What is said first counts.
    pub(crate) fn one_of(&mut self, field: Field, ranges: Vec<Range>) {
        if let Some(place) = Field::NUMBERS.iter().position(|other| *other == field) {
            self.numbers[place].get_or_insert(ranges);
        }
    }

    /// The same for ports.
    pub(crate) fn one_of_ports(&mut self, field: Field, ports: &[(u16, u16)]) {
        self.one_of(field, ports.iter().map(|&(from, to)| (from.into(), to.into())).collect());
    }
}

/// The addresses of a net; `None` when they are not in one row.
fn range(net: &Net, family: Family) -> Option<Range> {
    let all = u128::MAX >> (u128::BITS - family.bits());
    let rest = !net.mask & all;
    let is_row = rest & rest.wrapping_add(1) == 0;
    (is_row && !net.is_not && rest != all).then(|| {
        let first = net.address & net.mask & all;
        (first, first | rest)
    })
}

/// 64 rules in which the vectors of a class and of any value differ.
#[derive(Clone, Copy, Debug)]
struct Word {
    at: u32,
    bits: u64,
}

/// How a value finds its class.
#[derive(Debug)]
enum Classes {
    /// Where each class begins; the first one at 0.
    Narrow(Box<[u32]>),
    Wide(Box<[u128]>),
    /// Sorted; other names have no class.
    Names(Box<[Box<str>]>),
}

/// One field's vectors.
#[derive(Debug)]
struct Vectors {
    field: Field,
    classes: Classes,
    /// Rules that take any value, and which words of that are not 0.
    any: Box<[u64]>,
    any_at: Box<[u64]>,
    /// By class: where its words begin; they end where the next one's begin.
    first: Box<[u32]>,
    words: Box<[Word]>,
}

/// A chain's.
#[derive(Debug)]
pub(super) struct Index(Box<[Vectors]>);

/// A packet's search through a chain, from its first rule on: by field, which of its class's words are yet to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search([(u32, u32); Field::ALL]);

impl Index {
    /// `None`: not worth it.
    pub(super) fn new(rules: &[&Rule], family: Family) -> Option<Index> {
        if rules.len() <= SHORT {
            return None;
        }
        let narrowed: Vec<Narrowed<'_>> = rules.iter().map(|rule| Narrowed::of(rule, family)).collect();
        let mut vectors: Vec<Vectors> = Vec::new();
        for (place, field) in Field::NUMBERS.into_iter().enumerate() {
            let ranges: Vec<_> = narrowed.iter().map(|narrowed| narrowed.numbers[place].as_deref()).collect();
            vectors.extend(of_numbers(field, &ranges, family));
        }
        let names: Vec<_> = narrowed.iter().map(|narrowed| narrowed.input).collect();
        vectors.extend(of_names(Field::Input, &names));
        let names: Vec<_> = narrowed.iter().map(|narrowed| narrowed.output).collect();
        vectors.extend(of_names(Field::Output, &names));
        (!vectors.is_empty()).then(|| Index(vectors.into()))
    }

    /// Bytes that it takes.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        let of = |vectors: &Vectors| {
            let classes = match &vectors.classes {
                Classes::Narrow(starts) => size_of_val(&**starts),
                Classes::Wide(starts) => size_of_val(&**starts),
                Classes::Names(names) => size_of_val(&**names),
            };
            classes + size_of_val(&*vectors.any) + size_of_val(&*vectors.first) + size_of_val(&*vectors.words)
        };
        self.0.iter().map(of).sum()
    }

    pub(super) fn search(&self, view: &View<'_>) -> Search {
        let mut search = Search([(0, 0); Field::ALL]);
        for (vectors, words) in self.0.iter().zip(&mut search.0) {
            if let Some(class) = vectors.class(view) {
                *words = (vectors.first[class], vectors.first[class + 1]);
            }
        }
        search
    }

    /// The first rule from `from` on that may match. `from` never goes back.
    #[inline]
    pub(super) fn next(&self, search: &mut Search, from: usize) -> Option<usize> {
        let mut at = from / 64;
        let mut wanted = u64::MAX << (from % 64);
        'words: loop {
            let mut bits = wanted;
            for (vectors, words) in self.0.iter().zip(&mut search.0) {
                let (found, its) = vectors.seek(words, at)?;
                if found != at {
                    (at, wanted) = (found, u64::MAX);
                    continue 'words;
                }
                bits &= its;
            }
            if bits != 0 {
                return Some(at * 64 + bits.trailing_zeros() as usize);
            }
            (at, wanted) = (at + 1, u64::MAX);
        }
    }
}

impl Vectors {
    #[inline]
    fn class(&self, view: &View<'_>) -> Option<usize> {
        let number = || {
            Some(match self.field {
                Field::Source => view.source(),
                Field::Destination => view.destination(),
                Field::Protocol => view.protocol().into(),
                Field::SourcePort => view.ports()?.0.into(),
                _ => view.ports()?.1.into(),
            })
        };
        match &self.classes {
            Classes::Narrow(starts) => {
                let value = number()? as u32;
                starts.partition_point(|&start| start <= value).checked_sub(1)
            }
            Classes::Wide(starts) => {
                let value = number()?;
                starts.partition_point(|&start| start <= value).checked_sub(1)
            }
            Classes::Names(names) => {
                let name = if self.field == Field::Input { view.input_name() } else { view.output_name() };
                names.binary_search_by(|other| (**other).cmp(name)).ok()
            }
        }
    }

    /// The first word from `at` on that is not 0, and what it is. `words`: of the class, those that are yet to come.
    #[inline]
    fn seek(&self, words: &mut (u32, u32), at: usize) -> Option<(usize, u64)> {
        let mut own = self.words.get(words.0 as usize..words.1 as usize)?;
        if own.first().is_some_and(|word| (word.at as usize) < at) {
            let passed = own.partition_point(|word| (word.at as usize) < at);
            words.0 += passed as u32;
            own = own.get(passed..)?;
        }
        let any = self.any.get(at)?;
        let own = own.first();
        let here = any | own.filter(|word| word.at as usize == at).map_or(0, |word| word.bits);
        if here != 0 {
            return Some((at, here));
        }
        match (own, self.next_any(at + 1)) {
            (Some(word), None) => Some((word.at as usize, word.bits)),
            (Some(word), Some(any)) if (word.at as usize) < any => Some((word.at as usize, word.bits)),
            (Some(word), Some(any)) if word.at as usize == any => Some((any, word.bits | self.any.get(any)?)),
            (_, Some(any)) => Some((any, *self.any.get(any)?)),
            (None, None) => None,
        }
    }

    /// The first word of `any` from `from` on that is not 0.
    #[inline]
    fn next_any(&self, from: usize) -> Option<usize> {
        let mut at = from / 64;
        let mut bits = self.any_at.get(at)? & u64::MAX << (from % 64);
        while bits == 0 {
            at += 1;
            bits = *self.any_at.get(at)?;
        }
        Some(at * 64 + bits.trailing_zeros() as usize)
    }

    /// `takes`: by rule, the classes that it takes, in rows of the first and the last; `None`: any value. Of each rule, rows do not overlap.
    fn new(field: Field, classes: Classes, count: usize, takes: &[Option<Vec<(u32, u32)>>]) -> Vectors {
        let mut any = vec![0; takes.len().div_ceil(64)];
        let mut sizes = vec![0_u32; count + 1];
        for (rule, taken) in takes.iter().enumerate() {
            match taken {
                None => any[rule / 64] |= 1 << (rule % 64),
                Some(rows) => each(rows, |class| sizes[class] += 1),
            }
        }
        // Where the rules of each class are put, one after the other as they stand in the chain.
        let mut places = sizes;
        let mut sum = 0;
        for place in &mut places {
            sum += std::mem::replace(place, sum);
        }
        let starts = places.clone();
        let mut rules = vec![0_u32; sum as usize];
        for (rule, rows) in (0..).zip(takes).filter_map(|(rule, taken)| Some((rule, taken.as_ref()?))) {
            each(rows, |class| {
                rules[places[class] as usize] = rule;
                places[class] += 1;
            });
        }
        let mut first = Vec::with_capacity(count + 1);
        let mut words: Vec<Word> = Vec::new();
        for class in starts.windows(2) {
            let begin = words.len();
            first.push(begin as u32);
            for rule in &rules[class[0] as usize..class[1] as usize] {
                let (at, bit) = (rule / 64, 1 << (rule % 64));
                match words[begin..].last_mut() {
                    Some(word) if word.at == at => word.bits |= bit,
                    _ => words.push(Word { at, bits: bit }),
                }
            }
        }
        first.push(words.len() as u32);
        let mut any_at = vec![0; any.len().div_ceil(64)];
        for (at, _) in any.iter().enumerate().filter(|(_, word)| **word != 0) {
            any_at[at / 64] |= 1 << (at % 64);
        }
        Vectors {
            field,
            classes,
            any: any.into(),
            any_at: any_at.into(),
            first: first.into(),
            words: words.into(),
        }
    }
}

fn each(rows: &[(u32, u32)], mut take: impl FnMut(usize)) {
    for &(first, last) in rows {
        (first..=last).for_each(|class| take(class as usize));
    }
}

/// `ranges`: of each rule; `None`: any value. `None`: no rule narrows the field.
fn of_numbers(field: Field, ranges: &[Option<&[Range]>], family: Family) -> Option<Vectors> {
    let mut starts: Vec<u128> = vec![0];
    for &(from, to) in ranges.iter().flatten().copied().flatten().filter(|(from, to)| from <= to) {
        starts.push(from);
        starts.extend(to.checked_add(1));
    }
    starts.sort_unstable();
    starts.dedup();
    let class = |value: u128| (starts.partition_point(|&start| start <= value) - 1) as u32;
    let rows = |ranges: &[Range]| {
        let rows = ranges.iter().filter(|(from, to)| from <= to).map(|&(from, to)| (class(from), class(to)));
        let mut rows: Vec<(u32, u32)> = rows.collect();
        rows.sort_unstable();
        rows.dedup_by(|next, row| {
            let is_within = next.0 <= row.1;
            row.1 = if is_within { row.1.max(next.1) } else { row.1 };
            is_within
        });
        rows
    };
    let mut takes: Vec<Option<Vec<(u32, u32)>>> = ranges.iter().map(|ranges| ranges.map(rows)).collect();
    bound(&mut takes);
    if takes.iter().all(Option::is_none) {
        return None;
    }
    let is_wide = family == Family::Ipv6 && matches!(field, Field::Source | Field::Destination);
    let count = starts.len();
    let classes = if is_wide {
        Classes::Wide(starts.into())
    } else {
        Classes::Narrow(starts.into_iter().filter_map(|start| u32::try_from(start).ok()).collect())
    };
    Some(Vectors::new(field, classes, count, &takes))
}

/// Lets those rules take any value that are in the most classes, until the others fit.
fn bound(takes: &mut [Option<Vec<(u32, u32)>>]) {
    let count = |rows: &Vec<(u32, u32)>| rows.iter().map(|(first, last)| (last - first) as usize + 1).sum();
    let mut counts: Vec<(usize, usize)> =
        takes.iter().enumerate().filter_map(|(rule, rows)| Some((rows.as_ref().map(count)?, rule))).collect();
    let mut sum: usize = counts.iter().map(|(count, _)| count).sum();
    counts.sort_unstable();
    while sum > WORDS_A_RULE * takes.len()
        && let Some((count, rule)) = counts.pop()
    {
        takes[rule] = None;
        sum -= count;
    }
}

fn of_names(field: Field, names: &[Option<&str>]) -> Option<Vectors> {
    let mut classes: Vec<Box<str>> = names.iter().flatten().map(|&name| name.into()).collect();
    classes.sort_unstable();
    classes.dedup();
    if classes.is_empty() {
        return None;
    }
    let class = |name: &str| classes.partition_point(|other| **other < *name) as u32;
    let takes: Vec<_> = names.iter().map(|name| name.map(|name| vec![(class(name), class(name))])).collect();
    let count = classes.len();
    Some(Vectors::new(field, Classes::Names(classes.into()), count, &takes))
}
