//! `CONNMARK`: the connection's mark: written, or taken to or from the packet's.

use super::Target;
use crate::rule::prelude::*;
use crate::rule::view::Verdict;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Mode {
    #[default]
    Set,
    Save,
    Restore,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct ConnMarkTarget {
    mode: Mode,
    value: u32,
    /// Of the connection's mark; of the packet's.
    connection_mask: u32,
    packet_mask: u32,
    is_set: bool,
}

const MODES: u32 = 0b111_1111;

impl Extension for ConnMarkTarget {
    const NAME: &'static str = "CONNMARK";
    const OPTIONS: &'static [Opt] = &[
        opt("set-xmark", 0).not_with(MODES & !1),
        opt("set-mark", 1).not_with(MODES & !2),
        opt("and-mark", 2).not_with(MODES & !4),
        opt("or-mark", 3).not_with(MODES & !8),
        opt("xor-mark", 4).not_with(MODES & !16),
        flag("save-mark", 5).not_with(MODES & !32),
        flag("restore-mark", 6).not_with(MODES & !64),
        opt("ctmask", 7).not_with(1 << 9),
        opt("nfmask", 8).not_with(1 << 9),
        opt("mask", 9).not_with(1 << 7 | 1 << 8),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 | 1 => {
                let (value, mask) = given.marked()?;
                self.value = value;
                self.connection_mask = if given.id() == 1 { value | mask } else { mask };
            }
            2 => self.connection_mask = !given.u32()?,
            3 => {
                self.value = given.u32()?;
                self.connection_mask = self.value;
            }
            4 => self.value = given.u32()?,
            5 | 6 => {
                self.mode = if given.id() == 5 { Mode::Save } else { Mode::Restore };
                (self.connection_mask, self.packet_mask) = (u32::MAX, u32::MAX);
            }
            7 => self.connection_mask = given.u32()?,
            8 => self.packet_mask = given.u32()?,
            _ => (self.connection_mask, self.packet_mask) = (given.u32()?, given.u32()?),
        }
        self.is_set |= given.id() <= 6;
        Ok(())
    }

    fn finish(&mut self, _: u32, _: &Around<'_>) -> Result<(), Error> {
        match self.is_set {
            true => Ok(()),
            false => Err(Error::parameter("CONNMARK target: No operation specified")),
        }
    }

    fn save(&self, out: &mut String, _: Family) {
        match self.mode {
            Mode::Set => put!(out, " --set-xmark {:#x}/{:#x}", self.value, self.connection_mask),
            Mode::Save => put!(out, " --save-mark --nfmask {:#x} --ctmask {:#x}", self.packet_mask, self.connection_mask),
            Mode::Restore => {
                put!(out, " --restore-mark --nfmask {:#x} --ctmask {:#x}", self.packet_mask, self.connection_mask);
            }
        }
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        // The mask that is kept of what is read, and the one of what is written: alone where they are the same.
        let masks = |out: &mut String, (from, read): (&str, u32), (to, written): (&str, u32)| match (read, written) {
            (u32::MAX, u32::MAX) => {}
            (read, written) if read == written => put!(out, " mask {read:#x}"),
            (read, written) => put!(out, " {from} {read:#x} {to} ~{written:#x}"),
        };
        let (packet, connection) = (("nfmask", self.packet_mask), ("ctmask", self.connection_mask));
        match (self.mode, self.value, self.connection_mask) {
            (Mode::Set, 0, mask) => put!(out, " CONNMARK and {:#x}", !mask),
            (Mode::Set, value, mask) if value == mask => put!(out, " CONNMARK or {value:#x}"),
            (Mode::Set, value, 0) => put!(out, " CONNMARK xor {value:#x}"),
            (Mode::Set, value, u32::MAX) => put!(out, " CONNMARK set {value:#x}"),
            (Mode::Set, value, mask) => put!(out, " CONNMARK xset {value:#x}/{mask:#x}"),
            (Mode::Save, ..) => {
                out.push_str(" CONNMARK save");
                masks(out, packet, connection);
            }
            (Mode::Restore, ..) => {
                out.push_str(" CONNMARK restore");
                masks(out, connection, packet);
            }
        }
    }
}

impl Target for ConnMarkTarget {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        let connection = view.connection.as_mut()?;
        match self.mode {
            Mode::Set => connection.mark = connection.mark & !self.connection_mask ^ self.value,
            Mode::Save => {
                connection.mark = connection.mark & !self.connection_mask ^ (view.mark & self.packet_mask);
            }
            Mode::Restore => {
                view.mark = view.mark & !self.packet_mask ^ (connection.mark & self.connection_mask);
                view.effects.has_mark = true;
                return None;
            }
        }
        view.effects.has_connection_mark = true;
        None
    }
}
