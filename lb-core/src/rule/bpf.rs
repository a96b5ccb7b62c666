//! Classic BPF: programs of at most 64 instructions over the bytes of a packet, as `tcpdump -ddd` and `nfbpf_compile` make them. What is verified here once
//! runs forward only and comes to its end on any packet.
//!
//! Source of the facts: McCanne and Jacobson, "The BSD Packet Filter", USENIX Winter 1993; Linux, `Documentation/networking/filter.rst` and
//! `net/core/filter.c` (what a verifier asks, offsets below zero).

/// Instructions that a program may have.
pub(super) const MOST: usize = 64;
/// Words of scratch memory.
const WORDS: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Instruction {
    pub(super) code: u16,
    /// How many instructions a jump leaps over, if its condition holds and if it does not.
    pub(super) yes: u8,
    pub(super) no: u8,
    pub(super) k: u32,
}

/// What a program may ask besides the packet's bytes: at these offsets from [`EXTRA`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Extra {
    /// The EtherType.
    Protocol,
    /// 0: to this host, 1: broadcast, 2: multicast.
    PacketType,
    Mark,
    /// Of the device's kind: 1, Ethernet.
    Hardware,
    Cpu,
}

const EXTRAS: [(u32, Extra); 5] = [
    (0, Extra::Protocol),
    (4, Extra::PacketType),
    (20, Extra::Mark),
    (28, Extra::Hardware),
    (36, Extra::Cpu),
];
/// The accumulator is combined with the index register.
const XOR_INDEX: u32 = 40;
/// Where these places begin, and those of bytes from the IP and from the Ethernet header on.
const EXTRA: u32 = -0x1000_i32 as u32;
const FROM_IP: i32 = -0x10_0000;
const FROM_ETHERNET: i32 = -0x20_0000;

/// What a program is run over.
pub(super) trait Data {
    /// So many bytes from the IP header on.
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]>;
    /// And from the Ethernet header on.
    fn frame_bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]>;
    fn len(&self) -> u32;
    fn extra(&self, extra: Extra) -> u32;
}

// Codes: a class, a size or an operation, and where the operand is.
const LD: u16 = 0x00;
const LDX: u16 = 0x01;
const ST: u16 = 0x02;
const STX: u16 = 0x03;
const JUMP: u16 = 0x05;
const RETURN_K: u16 = 0x06;
const RETURN_A: u16 = 0x16;
const TAX: u16 = 0x07;
const TXA: u16 = 0x87;
const IMMEDIATE: u16 = 0x00;
const WORD_AT: u16 = 0x20;
const HALF_AT: u16 = 0x28;
const BYTE_AT: u16 = 0x30;
const WORD_BEHIND: u16 = 0x40;
const HALF_BEHIND: u16 = 0x48;
const BYTE_BEHIND: u16 = 0x50;
const MEMORY: u16 = 0x60;
const LENGTH: u16 = 0x80;
/// The index register becomes the length of the IPv4 header that begins at a byte.
const HEADER_LENGTH: u16 = 0xb1;
const ALU: u16 = 0x04;
const NEGATE: u16 = 0x84;
/// The operand is the index register.
const BY_INDEX: u16 = 0x08;

/// Operations of arithmetic, which stand above the class and the operand's bit.
const ADD: u16 = 0x00;
const SUBTRACT: u16 = 0x10;
const MULTIPLY: u16 = 0x20;
const DIVIDE: u16 = 0x30;
const OR: u16 = 0x40;
const AND: u16 = 0x50;
const LEFT: u16 = 0x60;
const RIGHT: u16 = 0x70;
const MODULO: u16 = 0x90;
const XOR: u16 = 0xa0;
/// Conditions of jumps, the same.
const EQUAL: u16 = 0x10;
const GREATER: u16 = 0x20;
const NOT_LESS: u16 = 0x30;
const HAS_BITS: u16 = 0x40;

const OPERATION: u16 = 0xf0;
const CLASS: u16 = 0x07;

/// Why a program is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bad {
    Invalid,
    /// It asks what nobody here knows.
    Unknown,
}

/// Whether a program can run.
pub(super) fn verify(program: &[Instruction]) -> Result<(), Bad> {
    let is_length = (1..=MOST).contains(&program.len());
    let ends = program.last().is_some_and(|last| matches!(last.code, RETURN_K | RETURN_A));
    if !is_length || !ends {
        return Err(Bad::Invalid);
    }
    // Words of memory that have been written whichever way led to an instruction.
    let mut written = [u16::MAX; MOST];
    let mut known: u16 = 0;
    for (at, instruction) in program.iter().enumerate() {
        let Instruction { code, yes, no, k } = *instruction;
        known &= written[at];
        let mut lead = |leap: u32| match (at + 1).checked_add(leap as usize).filter(|to| *to < program.len())
        {
            Some(to) => {
                written[to] &= known;
                Ok(())
            }
            None => Err(Bad::Invalid),
        };
        let is_word = (k as usize) < WORDS;
        let bit = 1_u16.checked_shl(k).unwrap_or(0);
        let is_extra = code & CLASS == LD && matches!(code, WORD_AT | HALF_AT | BYTE_AT) && k >= EXTRA;
        match code {
            _ if is_extra => {
                let place = k - EXTRA;
                let is_known = place == XOR_INDEX || EXTRAS.iter().any(|(known, _)| *known == place);
                if !is_known {
                    return Err(Bad::Unknown);
                }
            }
            WORD_AT | HALF_AT | BYTE_AT | WORD_BEHIND | HALF_BEHIND | BYTE_BEHIND | HEADER_LENGTH => {}
            IMMEDIATE | LENGTH | LDX | TAX | TXA | NEGATE | RETURN_K | RETURN_A => {}
            _ if code == LDX | LENGTH => {}
            ST | STX if is_word => known |= bit,
            MEMORY if known & bit != 0 => {}
            _ if code == LDX | MEMORY && known & bit != 0 => {}
            JUMP => {
                lead(k)?;
                known = u16::MAX;
            }
            _ => match (code & CLASS, code & OPERATION, code & BY_INDEX != 0) {
                (JUMP, EQUAL | GREATER | NOT_LESS | HAS_BITS, _) if code < 0x100 => {
                    lead(yes.into())?;
                    lead(no.into())?;
                    known = u16::MAX;
                }
                (ALU, DIVIDE | MODULO, false) if k == 0 => return Err(Bad::Invalid),
                (ALU, LEFT | RIGHT, false) if k >= 32 => return Err(Bad::Invalid),
                (ALU, ADD..=RIGHT | MODULO | XOR, _) if code < 0x100 => {}
                _ => return Err(Bad::Invalid),
            },
        }
    }
    Ok(())
}

/// What a program that was verified says of a packet; 0 too where it looks beyond its end, or divides by 0.
pub(super) fn run(program: &[Instruction], data: &impl Data) -> u32 {
    ends_with(program, data).unwrap_or(0)
}

fn ends_with(program: &[Instruction], data: &impl Data) -> Option<u32> {
    let (mut a, mut x) = (0_u32, 0_u32);
    let mut memory = [0_u32; WORDS];
    let mut at = 0;
    while let Some(&Instruction { code, yes, no, k }) = program.get(at) {
        at += 1;
        let operand = if code & BY_INDEX == 0 { k } else { x };
        match code {
            RETURN_K => return Some(k),
            RETURN_A => return Some(a),
            WORD_AT | HALF_AT | BYTE_AT if k >= EXTRA => match k - EXTRA {
                XOR_INDEX => a ^= x,
                place => a = data.extra(EXTRAS.iter().find(|(known, _)| *known == place)?.1),
            },
            WORD_AT => a = u32::from_be_bytes(load(data, k as i32)?),
            HALF_AT => a = u16::from_be_bytes(load(data, k as i32)?).into(),
            BYTE_AT => a = u8::from_be_bytes(load(data, k as i32)?).into(),
            WORD_BEHIND => a = u32::from_be_bytes(load(data, x.wrapping_add(k) as i32)?),
            HALF_BEHIND => a = u16::from_be_bytes(load(data, x.wrapping_add(k) as i32)?).into(),
            BYTE_BEHIND => a = u8::from_be_bytes(load(data, x.wrapping_add(k) as i32)?).into(),
            HEADER_LENGTH => x = u32::from(u8::from_be_bytes(load(data, k as i32)?) & 0xf) * 4,
            IMMEDIATE => a = k,
            LENGTH => a = data.len(),
            MEMORY => a = *memory.get(k as usize)?,
            LDX => x = k,
            ST => *memory.get_mut(k as usize)? = a,
            STX => *memory.get_mut(k as usize)? = x,
            TAX => x = a,
            TXA => a = x,
            NEGATE => a = a.wrapping_neg(),
            JUMP => at = at.checked_add(k as usize)?,
            _ if code == LDX | LENGTH => x = data.len(),
            _ if code == LDX | MEMORY => x = *memory.get(k as usize)?,
            _ if code & CLASS == JUMP => {
                let holds = match code & OPERATION {
                    EQUAL => a == operand,
                    GREATER => a > operand,
                    NOT_LESS => a >= operand,
                    _ => a & operand != 0,
                };
                at += usize::from(if holds { yes } else { no });
            }
            _ => {
                a = match code & OPERATION {
                    ADD => a.wrapping_add(operand),
                    SUBTRACT => a.wrapping_sub(operand),
                    MULTIPLY => a.wrapping_mul(operand),
                    DIVIDE => a.checked_div(operand)?,
                    MODULO => a.checked_rem(operand)?,
                    OR => a | operand,
                    AND => a & operand,
                    LEFT => a.wrapping_shl(operand),
                    RIGHT => a.wrapping_shr(operand),
                    _ => a ^ operand,
                }
            }
        }
    }
    None
}

/// Bytes at an offset, which below zero counts from one of the headers.
fn load<const N: usize>(data: &impl Data, at: i32) -> Option<[u8; N]> {
    match at {
        0.. => data.bytes(at as usize),
        FROM_IP.. => data.bytes((at - FROM_IP) as usize),
        FROM_ETHERNET.. => data.frame_bytes((at - FROM_ETHERNET) as usize),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes behind no header.
    struct Bytes(Vec<u8>);

    impl Data for Bytes {
        fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
            self.0.get(at..)?.first_chunk().copied()
        }

        fn frame_bytes<const N: usize>(&self, _: usize) -> Option<[u8; N]> {
            None
        }

        fn len(&self) -> u32 {
            self.0.len() as u32
        }

        fn extra(&self, _: Extra) -> u32 {
            0
        }
    }

    /// `code yes no k,…`
    fn program(text: &str) -> Vec<Instruction> {
        let read = |text: &str| {
            let words: Vec<u32> = text.split(' ').map(|word| word.parse().unwrap()).collect();
            Instruction { code: words[0] as u16, yes: words[1] as u8, no: words[2] as u8, k: words[3] }
        };
        text.split(',').map(read).collect()
    }

    #[test]
    fn programs_are_taken_and_end_as_in_the_kernel() {
        // Drawn by chance, run by Linux 6.18 as socket filters over the bytes 0, 37, 74 …: a program, and how many of 127 bytes it let
        // through; or that it was refused.
        let data = Bytes((0..127_u32).map(|at| (at * 37) as u8).collect());
        let lines = include_str!("../../tests/oracle/bpf.txt").lines().filter(|line| !line.starts_with('#'));
        let mut ran = 0;
        for line in lines {
            let (text, expected) = line.split_once(": ").unwrap();
            let program = program(text);
            let got = match verify(&program) {
                Ok(()) => run(&program, &data).min(127).to_string(),
                Err(_) => "refused".to_owned(),
            };
            assert_eq!(got, expected, "{text}");
            ran += u32::from(expected != "refused" && expected != "0");
        }
        assert!(ran > 300, "{ran}");
    }

    #[test]
    fn what_nobody_knows_is_not_asked() {
        let asks = |place: u32| verify(&program(&format!("32 0 0 {},22 0 0 0", EXTRA + place)));
        assert_eq!([0, 4, 20, 28, 36, 40].map(asks), [Ok(()); 6]);
        // The interface's number, an attribute of a netlink message, the hash of a NIC, chance, and what is nothing.
        assert_eq!([8, 12, 16, 24, 32, 44, 48, 52, 56, 60, 1, 64].map(asks), [Err(Bad::Unknown); 12]);
    }

    #[test]
    fn a_program_is_not_too_long() {
        let long = |len: usize| verify(&vec![Instruction { code: RETURN_K, yes: 0, no: 0, k: 1 }; len]);
        assert_eq!([0, 1, 64, 65].map(|len| long(len).is_ok()), [false, true, true, false]);
    }
}
