//! `bpf`: what a classic BPF program says of the packet, from its IP header on, as it is at this hook.
//!
//! Source of the facts: Linux, `net/netfilter/xt_bpf.c`; what is printed: recorded from iptables 1.8.9.

use super::Match;
use super::pkttype;
use crate::rule::bpf::{self, Bad, Data, Extra, Instruction};
use crate::rule::prelude::*;
use crate::rule::seen::Seen;
use crate::rule::text::atoi;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Bpf {
    program: Vec<Instruction>,
}

impl Bpf {
    fn put(&self, out: &mut String) {
        for (at, Instruction { code, yes, no, k }) in self.program.iter().enumerate() {
            put!(out, "{}{code} {yes} {no} {k}", if at == 0 { "" } else { "," });
        }
    }
}

/// `length,code yes no k,…`
fn read(text: &str) -> Result<Vec<Instruction>, Error> {
    let bad = |what: &str| Error::parameter(format!("bpf: {what}"));
    let read = text.split_once(',').and_then(|(len, rest)| Some((len.trim_start().parse::<i64>().ok()? as u16, rest)));
    let (len, rest) = read.ok_or_else(|| bad("error parsing program length"))?;
    let len = usize::from(len);
    if len == 0 {
        return Err(bad("illegal zero length program"));
    }
    if len > bpf::MOST {
        return Err(bad("number of instructions exceeds maximum"));
    }
    let mut program = Vec::new();
    for text in rest.strip_suffix(',').unwrap_or(rest).split(',').filter(|_| !rest.is_empty()) {
        if program.len() == len {
            return Err(bad("real program length exceeds the encoded length parameter"));
        }
        let instruction = instruction(text);
        program.push(instruction.ok_or_else(|| bad(&format!("error at instr {}", program.len())))?);
    }
    match program.len() == len {
        true => Ok(program),
        false => Err(bad("parsed program length is less than the encoded length parameter")),
    }
}

/// Four numbers, of each of which as many bits count as there is room for; what follows them is passed over, as by iptables.
fn instruction(text: &str) -> Option<Instruction> {
    let mut words = text.split_ascii_whitespace();
    let mut number = || {
        let word = words.next()?;
        let digits = word.strip_prefix(['-', '+']).unwrap_or(word);
        digits.starts_with(|c: char| c.is_ascii_digit()).then(|| atoi(word))
    };
    Some(Instruction { code: number()? as u16, yes: number()? as u8, no: number()? as u8, k: number()? as u32 })
}

impl Extension for Bpf {
    const NAME: &'static str = "bpf";
    const OPTIONS: &'static [Opt] = &[opt("bytecode", 0), opt("object-pinned", 1)];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        if given.id() == 1 {
            return Err(Error::parameter("bpf: failed to get bpf object"));
        }
        self.program = read(given.value)?;
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        match seen {
            0 => Err(Error::parameter("bpf: one of --bytecode or --pinned is required")),
            _ => Ok(()),
        }
    }

    fn check(&self, _: &Place<'_>) -> Result<(), Refused> {
        bpf::verify(&self.program).map_err(|bad| match bad {
            Bad::Invalid => Refused::Invalid,
            Bad::Unknown => Refused::NotSupported,
        })
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, " --bytecode \"{},", self.program.len());
        self.put(out);
        out.push('"');
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str("match bpf ");
        self.put(out);
    }
}

/// A packet as programs see it.
struct Packet<'v> {
    seen: Seen<'v>,
    view: &'v View<'v>,
}

impl Data for Packet<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.seen.bytes(at)
    }

    /// Without a VLAN's tag, as the kernel has it by then. What the host sends has no such header yet.
    fn frame_bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        const ADDRESSES: usize = 12;
        self.view.input?;
        let kind = usize::from(self.view.headers.l3).checked_sub(2)?;
        let mut bytes = [0; N];
        for (byte, at) in bytes.iter_mut().zip(at..) {
            [*byte] = match at {
                ..ADDRESSES => [*self.view.frame.get(at)?],
                12 | 13 => [*self.view.frame.get(kind + at - ADDRESSES)?],
                _ => self.seen.bytes(at - 14)?,
            };
        }
        Some(bytes)
    }

    fn len(&self) -> u32 {
        self.view.headers.ip_len
    }

    fn extra(&self, extra: Extra) -> u32 {
        match extra {
            Extra::Protocol if self.view.headers.is_ipv6 => 0x86dd,
            Extra::Protocol => 0x0800,
            Extra::PacketType => pkttype::Kind::of(self.view) as u32,
            Extra::Mark => self.view.mark,
            Extra::Hardware => 1,
            Extra::Cpu => self.view.cpu,
        }
    }
}

impl Match for Bpf {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let view = &*view;
        bpf::run(&self.program, &Packet { seen: Seen::of(view), view }) != 0
    }
}
