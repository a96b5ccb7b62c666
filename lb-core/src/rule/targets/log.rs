//! `LOG`: the packet's headers go to the log, and the packet on to the next rule.

use super::Target;
use crate::rule::event::{self, Said};
use crate::rule::prelude::*;
use crate::rule::text::{number, quote_to};
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug)]
pub struct Log {
    /// 0 (emergency) to 7 (debug).
    level: u8,
    /// At most 29 bytes.
    prefix: String,
    /// TCP sequence numbers 1, TCP options 2, IP options 4, the sending user 8, MAC addresses 32.
    options: u8,
}

/// As they are read.
const LEVELS: [(&str, u8); 9] = [
    ("emerg", 0),
    ("panic", 0),
    ("alert", 1),
    ("crit", 2),
    ("error", 3),
    ("warning", 4),
    ("notice", 5),
    ("info", 6),
    ("debug", 7),
];

/// As they are shown.
const SHOWN: [&str; 8] = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];

const FLAGS: [(&str, u8, &str); 5] = [
    ("log-tcp-sequence", 1, "tcp-sequence"),
    ("log-tcp-options", 2, "tcp-options"),
    ("log-ip-options", 4, "ip-options"),
    ("log-uid", 8, "uid"),
    ("log-macdecode", 32, "macdecode"),
];

impl Default for Log {
    fn default() -> Log {
        Log { level: 4, prefix: String::new(), options: 0 }
    }
}

impl Log {
    fn has_option(&self, bit: u8) -> bool {
        self.options & bit != 0
    }
}

impl Extension for Log {
    const NAME: &'static str = "LOG";
    const OPTIONS: &'static [Opt] = &[
        opt("log-level", 0),
        opt("log-prefix", 1),
        flag("log-tcp-sequence", 2),
        flag("log-tcp-options", 3),
        flag("log-ip-options", 4),
        flag("log-uid", 5),
        flag("log-macdecode", 6),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => {
                let wanted = given.value.to_ascii_lowercase();
                let by_name = || LEVELS.iter().find(|(name, _)| *name == wanted).map(|(_, level)| *level);
                let level = match number(given.value) {
                    Some(level) => u8::try_from(level).ok().filter(|level| *level <= 7),
                    None => by_name(),
                };
                self.level =
                    level.ok_or_else(|| Error::parameter(format!("log level \"{}\" unknown\n", given.value)))?;
            }
            1 => {
                if given.value.contains('\n') {
                    return Err(Error::parameter("Newlines not allowed in --log-prefix".to_owned()));
                }
                // iptables cuts it off too.
                self.prefix = event::prefix::<{ event::PREFIX }>(&given.text(1, usize::MAX)?).as_str().to_owned();
            }
            id => self.options |= FLAGS[usize::from(id) - 2].1,
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        if !self.prefix.is_empty() {
            out.push_str(" --log-prefix");
            quote_to(out, &self.prefix);
        }
        if self.level != 4 {
            put!(out, " --log-level {}", self.level);
        }
        for (name, ..) in FLAGS.iter().filter(|(_, bit, _)| self.has_option(*bit)) {
            put!(out, " --{name}");
        }
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        let name = SHOWN.get(usize::from(self.level)).copied().unwrap_or_default();
        if style.is_numeric {
            put!(out, " LOG flags {} level {}", self.options, self.level);
        } else {
            put!(out, " LOG level {name}");
            for (.., shown) in FLAGS.iter().filter(|(_, bit, _)| self.has_option(*bit)) {
                put!(out, " {shown}");
            }
        }
        if !self.prefix.is_empty() {
            put!(out, " prefix \"{}\"", self.prefix);
        }
    }
}

impl Target for Log {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        view.say(Said::Headers { options: self.options }, &self.prefix, self.level);
        None
    }
}
