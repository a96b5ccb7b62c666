//! Any sequence of operations leaves a flow table as it leaves a plain list of connections.

use std::net::{Ipv4Addr, Ipv6Addr};

use arbitrary::{Arbitrary, Unstructured};
use lb_core::conntrack::Zones;
use lb_core::flow::{Direction, FlowId, FlowTable, InsertError, Method, NewFlow, Tuple, memory_needed};
use lb_core::ids::ServerId;
use lb_core::mem::Region;
use lb_core::tables::Protocol;
use lb_core::time::{Tick, Timeout};

const CONNECTIONS: u32 = 24;
const IPV6: u32 = 8;
/// The wheel turns in steps of so many ticks.
const STEP: u32 = 16;

/// A tuple out of so few that connections meet.
#[derive(Arbitrary, Clone, Copy)]
struct Ends {
    src: u8,
    dst: u8,
    sport: u8,
}

#[derive(Arbitrary)]
enum Step {
    Insert { is_ipv6: bool, is_udp: bool, original: Ends, reply: Ends, secs: u16 },
    Remove { nth: u8 },
    Touch { nth: u8 },
    SetTimeout { nth: u8, secs: u16 },
    Wait { ticks: u16, calls: u8, budget: u8 },
}

impl Ends {
    fn tuple(self, is_ipv6: bool, is_udp: bool) -> Tuple {
        let address = |n: u8| match is_ipv6 {
            true => Ipv6Addr::from(u128::from(n % 8) << 64 | 1).into(),
            false => Ipv4Addr::from(0x0a00_0000 + u32::from(n % 8)).into(),
        };
        Tuple {
            src: address(self.src),
            dst: address(self.dst),
            sport: u16::from(self.sport % 4),
            dport: 80,
            protocol: if is_udp { Protocol::UDP } else { Protocol::TCP },
        }
    }
}

/// The slow obvious twin of an entry.
struct Known {
    id: FlowId,
    original: Tuple,
    reply: Tuple,
    seen: Tick,
    timeout: Timeout,
    number: u32,
}

impl Known {
    fn ends(&self) -> Tick {
        self.seen.after(self.timeout)
    }
}

pub(crate) fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(start) = input.arbitrary() else { return };
    let mut now = Tick(start);
    let memory = Region::heap(memory_needed(CONNECTIONS, IPV6));
    let mut table = FlowTable::new(memory, CONNECTIONS, IPV6, 7, now);
    let mut known: Vec<Known> = Vec::new();
    let mut number = 0;
    let Ok(steps) = input.arbitrary_iter::<Step>() else { return };
    for step in steps {
        let Ok(step) = step else { break };
        let connections = known.len();
        let nth = |nth: u8| usize::from(nth) % connections;
        match step {
            Step::Insert { is_ipv6, is_udp, original, reply, secs } => {
                let (original, reply) = (original.tuple(is_ipv6, is_udp), reply.tuple(is_ipv6, is_udp));
                // No packet is its own answer.
                if original == reply {
                    continue;
                }
                number += 1;
                let timeout = Timeout::from_secs(u32::from(secs) + 1);
                let server = ServerId(number);
                let (method, deltas) = (Method::Masq, Default::default());
                let new = NewFlow {
                    original,
                    reply,
                    method,
                    deltas,
                    server,
                    state: 0,
                    timeout,
                    now,
                    zones: Zones::NONE,
                };
                insert(&mut table, &mut known, &new);
            }
            Step::Remove { nth: n } if !known.is_empty() => {
                let gone = known.swap_remove(nth(n));
                table.remove(gone.id);
            }
            Step::Touch { nth: n } if !known.is_empty() => {
                let touched = &mut known[nth(n)];
                touched.seen = now;
                table.entry_mut(touched.id).touch(now);
            }
            Step::SetTimeout { nth: n, secs } if !known.is_empty() => {
                let changed = &mut known[nth(n)];
                changed.timeout = Timeout::from_secs(u32::from(secs) + 1);
                table.set_timeout(changed.id, changed.timeout);
            }
            Step::Wait { ticks, calls, budget } => {
                now = now.after(Timeout(u32::from(ticks)));
                wait(&mut table, &mut known, now, calls, usize::from(budget % 8) + 1);
            }
            _ => {}
        }
        check(&table, &known);
    }
    check_others(&table, &known);
}

fn insert(table: &mut FlowTable, known: &mut Vec<Known>, new: &NewFlow) {
    let holder = |tuple| known.iter().find(|known| known.original == tuple || known.reply == tuple);
    let is_ipv6 = new.original.dst.is_ipv6();
    let ipv6 = known.iter().filter(|known| known.original.dst.is_ipv6()).count();
    let is_full = known.len() == CONNECTIONS as usize || is_ipv6 && ipv6 == IPV6 as usize;
    match (table.insert(new), holder(new.original).or_else(|| holder(new.reply))) {
        (Err(InsertError::Taken(by)), Some(holder)) => assert_eq!(by, holder.id),
        (Err(InsertError::Full), None) => assert!(is_full, "full with {} connections", known.len()),
        (Err(InsertError::IndexFull), None) => {}
        (Ok(id), None) => {
            assert!(!is_full, "one more than there is room for");
            let NewFlow { original, reply, now, timeout, server, .. } = *new;
            known.push(Known { id, original, reply, seen: now, timeout, number: server.0 });
        }
        (got, holder) => panic!("{got:?}, while held by {:?}", holder.map(|known| known.id)),
    }
}

/// Calls for what is due; when all of it was visited, nothing is left that ended a step ago.
fn wait(table: &mut FlowTable, known: &mut Vec<Known>, now: Tick, calls: u8, budget: usize) {
    for _ in 0..calls {
        let mut ended = Vec::new();
        let visited = table.expire(now, budget, |store, id| {
            ended.push(store.entry(id).server().0);
            None
        });
        assert!(visited <= budget && ended.len() <= visited);
        for number in ended {
            let at =
                known.iter().position(|known| known.number == number).expect("ended twice, or never begun");
            assert!(now.is_at_or_after(known.swap_remove(at).ends()), "ended before its time");
        }
        if visited == 0 {
            let late = known.iter().find(|known| now.since(known.ends()) > STEP);
            assert!(
                late.is_none(),
                "outlived its time by {} ticks",
                late.map_or(0, |late| now.since(late.ends()))
            );
            return;
        }
    }
}

fn check(table: &FlowTable, known: &[Known]) {
    assert_eq!(table.check(), Ok(()));
    assert_eq!(table.len().0 as usize, known.len());
    assert_eq!(table.iter(0, u32::MAX).count(), known.len());
    for flow in known {
        let entry = table.entry(flow.id);
        assert_eq!((entry.server().0, entry.expires()), (flow.number, flow.ends()));
        for (tuple, direction) in [(flow.original, Direction::Original), (flow.reply, Direction::Reply)] {
            let found = table.find(&tuple).expect("it is there");
            assert_eq!((found.id(), found.direction()), (flow.id, direction));
            assert_eq!(table.tuple(flow.id, direction), tuple);
        }
    }
}

/// What is not known is not found.
fn check_others(table: &FlowTable, known: &[Known]) {
    for n in 0..=u8::MAX {
        let ends = Ends { src: n & 7, dst: n >> 3 & 7, sport: n >> 6 };
        for tuple in [ends.tuple(false, true), ends.tuple(true, false)] {
            let is_known = known.iter().any(|flow| flow.original == tuple || flow.reply == tuple);
            assert_eq!(table.find(&tuple).is_some(), is_known, "{tuple:?}");
        }
    }
}
