//! Flow memory of a process that was killed, damaged in any way, is refused or read connection by connection: none is
//! entered that was not there, all that is undamaged goes on, and the workers are in order afterwards.

use arbitrary::{Arbitrary, Unstructured};
use lb_core::flow::carry::Salvage;
use lb_core::packet::Frame;
use lb_core::path::Path;
use lb_core::time::{Tick, Timeout};

use crate::scene::Plan;
use crate::workers::{Step, Workers};

#[derive(Arbitrary, Debug)]
struct Input {
    workers: (u8, u8),
    now: u32,
    before: Vec<Step>,
    damages: Vec<Damage>,
    /// The new process' tables, when they are others.
    plan: Option<Plan>,
    pause: u16,
    after: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Damage {
    /// `value` from a place on.
    Fill {
        worker: u8,
        at: u16,
        len: u8,
        value: u8,
    },
    /// A word of an entry (or of what stands in its place).
    Word {
        worker: u8,
        entry: u8,
        word: u8,
        value: u32,
    },
    /// An entry is there twice.
    Copy {
        worker: u8,
        from: u8,
        to: u8,
    },
    Cut {
        worker: u8,
        len: u16,
    },
}

/// Where the entries begin: behind the header and the index, a page each.
const ENTRIES: usize = 8192;
const ENTRY: usize = 64;

impl Damage {
    fn do_to(&self, memory: &mut [Vec<u8>]) {
        let (Damage::Fill { worker, .. }
        | Damage::Word { worker, .. }
        | Damage::Copy { worker, .. }
        | Damage::Cut { worker, .. }) = *self;
        let nth = usize::from(worker) % memory.len();
        let bytes = &mut memory[nth];
        let entry = |n: u8| ENTRIES + usize::from(n % 24) * ENTRY;
        match *self {
            Damage::Fill { at, len, value, .. } => {
                let at = usize::from(at).min(bytes.len());
                let end = (at + usize::from(len)).min(bytes.len());
                bytes[at..end].fill(value);
            }
            Damage::Word { entry: n, word, value, .. } => {
                let at = entry(n) + usize::from(word % 16) * 4;
                if let Some(bytes) = bytes.get_mut(at..at + 4) {
                    bytes.copy_from_slice(&value.to_le_bytes());
                }
            }
            Damage::Copy { from, to, .. } => {
                if bytes.len() >= ENTRIES + 24 * ENTRY {
                    bytes.copy_within(entry(from)..entry(from) + ENTRY, entry(to));
                }
            }
            Damage::Cut { len, .. } => bytes.truncate(len.into()),
        }
    }
}

pub(crate) fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let mut old = Workers::<Path<Frame>>::new(input.workers.0, Plan::USUAL, Tick(input.now), false);
    input.before.into_iter().for_each(|step| old.step(step));
    let (before, plan) = (old.flows(), input.plan.unwrap_or(old.plan()));
    let now = old.now().after(Timeout(input.pause.into()));
    let mut memory = old.killed();
    input.damages.iter().for_each(|damage| damage.do_to(&mut memory));

    let readable: Vec<Salvage<'_>> = memory.iter().filter_map(|memory| Salvage::of(memory).ok()).collect();
    let found: Vec<_> = readable.iter().flat_map(|memory| memory.connections(now)).collect();
    let mut new = Workers::<Path<Frame>>::new(input.workers.1, plan, now, false);
    let done = new.carry_over(&readable);
    let counted =
        done.connections + done.expired + done.no_server + done.no_room + done.no_port + done.damaged;
    assert_eq!(counted, found.len() as u64, "{done:?}");
    let after = new.flows();
    assert_eq!(done.connections, after.len() as u64);
    for flow in &after {
        let is_it = |original: &lb_core::flow::Tuple| {
            (original.protocol, (original.src, original.sport), (original.dst, original.dport))
                == (flow.protocol, flow.client, flow.virtual_)
        };
        let is_found = found.iter().flatten().any(|found| is_it(&found.original));
        assert!(is_found, "from nowhere: {flow:?}");
    }
    if input.damages.is_empty() {
        assert_eq!((done.damaged, found.len()), (0, before.len()));
        for flow in after {
            let same = before.iter().find(|old| {
                (old.protocol, old.client, old.virtual_) == (flow.protocol, flow.client, flow.virtual_)
            });
            let same = same.expect("found a moment ago");
            assert_eq!((same.server, same.state), (flow.server, flow.state));
        }
    }
    input.after.into_iter().for_each(|step| new.step(step));
}
