//! `IDLETIMER`: begins the timer of a label anew; each packet goes on to the next rule.
//!
//! Source of the facts: Linux, `net/netfilter/xt_IDLETIMER.c`; what is printed and refused: recorded from iptables 1.8.9 over Linux 6.18.

use super::Target;
use crate::rule::idle_timer::{IdleTimer, LONGEST_LABEL, MOST_SECONDS};
use crate::rule::prelude::*;
use crate::rule::state::shared;
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct IdleTimerTarget {
    seconds: u32,
    label: String,
    is_alarm: bool,
    timer: Kept<IdleTimer>,
}

/// The kernel's label is a file's name, beside these.
const TAKEN: [&str; 3] = ["power", "subsystem", "uevent"];

impl Extension for IdleTimerTarget {
    const NAME: &'static str = "IDLETIMER";
    const OPTIONS: &'static [Opt] = &[opt("timeout", 0).must(), opt("label", 1).must(), flag("alarm", 2)];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => self.seconds = given.u32()?,
            1 => self.label = given.text(0, LONGEST_LABEL)?,
            _ => self.is_alarm = true,
        }
        Ok(())
    }

    fn bind(&mut self, named: &mut Named) -> Result<(), Refused> {
        let is_label =
            !self.label.is_empty() && !self.label.contains('/') && !TAKEN.contains(&&*self.label);
        if !is_label || !(1..=MOST_SECONDS).contains(&self.seconds) {
            return Err(Refused::Invalid);
        }
        let (seconds, is_alarm) = (self.seconds, self.is_alarm);
        let timer = shared(&mut named.idle_timers, &self.label, || IdleTimer::new(seconds, is_alarm));
        if timer.is_alarm != is_alarm {
            return Err(Refused::Invalid);
        }
        self.timer.set(timer);
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, " --timeout {} --label {}", self.seconds, self.label);
        out.push_str(if self.is_alarm { " --alarm" } else { "" });
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " timeout:{} label:{}", self.seconds, self.label);
        out.push_str(if self.is_alarm { " alarm" } else { "" });
    }
}

impl Target for IdleTimerTarget {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        if let Some(timer) = self.timer.get().filter(|_| !view.is_dry) {
            timer.begin(self.seconds, view.now);
        }
        None
    }
}
