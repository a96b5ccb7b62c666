//! `time`: what the clock and the calendar say, in UTC or in the host's time zone.
//!
//! `--localtz` is what iptables calls `--kerneltz` now. The kernel's zone is an offset that is set at boot; the host's has its summer times.

use super::Match;
use crate::rule::prelude::*;
use crate::rule::text::{is_blank, number};

const DAY: u32 = 86_400;
/// Dates are 32-bit in iptables.
const LAST: u32 = i32::MAX as u32;

#[derive(Clone, PartialEq, Debug)]
pub struct Time {
    /// Seconds from 1970.
    dates: (u32, u32),
    /// Seconds of the day.
    times: (u32, u32),
    /// Monday is bit 1, Sunday bit 7.
    weekdays: u8,
    /// The first is bit 1.
    monthdays: u32,
    is_kernel_zone: bool,
    is_contiguous: bool,
}

const ALL_WEEKDAYS: u8 = 0xfe;
const ALL_MONTHDAYS: u32 = 0xffff_fffe;
/// Taken as a day of the week, and none.
const NO_DAY: u8 = 8;
const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

impl Default for Time {
    fn default() -> Time {
        Time {
            dates: (0, LAST),
            times: (0, DAY - 1),
            weekdays: ALL_WEEKDAYS,
            monthdays: ALL_MONTHDAYS,
            is_kernel_zone: false,
            is_contiguous: false,
        }
    }
}

impl Extension for Time {
    const NAME: &'static str = "time";
    const OPTIONS: &'static [Opt] = &[
        opt("datestart", 0),
        opt("datestop", 1),
        opt("timestart", 2),
        opt("timestop", 3),
        flag("contiguous", 4),
        opt("weekdays", 5).negatable(),
        opt("monthdays", 6).negatable(),
        flag("localtz", 7),
        flag("utc", 8).not_with(1 << 9),
        flag("kerneltz", 9).not_with(1 << 8),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let text = given.value;
        match given.id() {
            0 => self.dates.0 = date(text)?,
            1 => self.dates.1 = date(text)?,
            2 => self.times.0 = time(text)?,
            3 => self.times.1 = time(text)?,
            4 => self.is_contiguous = true,
            // As in iptables others than these are just the others.
            5 => self.weekdays = weekdays(text)? ^ if given.is_negated { ALL_WEEKDAYS } else { 0 },
            6 => self.monthdays = monthdays(text)? ^ if given.is_negated { ALL_MONTHDAYS } else { 0 },
            7 => {
                given.around.warn(
                    "WARNING: --localtz is being replaced by --kerneltz, since \"local\" is ambiguous. Note the kernel \
                     timezone has caveats - see manpage for details.",
                );
                self.is_kernel_zone = true;
            }
            8 => {}
            _ => self.is_kernel_zone = true,
        }
        Ok(())
    }

    fn finish(&mut self, _: u32, _: &Around<'_>) -> Result<(), Error> {
        if self.is_contiguous && self.times.1 >= self.times.0 {
            return Err(Error::parameter(
                "time: --contiguous only makes sense when stoptime is smaller than starttime",
            ));
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        if self.times != (0, DAY - 1) {
            put!(out, " --timestart {} --timestop {}", clock(self.times.0), clock(self.times.1));
        }
        if self.monthdays != ALL_MONTHDAYS {
            out.push_str(" --monthdays ");
            match self.monthdays {
                // Better: what can be read again; iptables says nothing.
                0 => out.push('0'),
                days => put_monthdays(out, days, |_| ""),
            }
        }
        if self.weekdays != ALL_WEEKDAYS {
            out.push_str(" --weekdays ");
            match self.weekdays {
                0 => put!(out, "{NO_DAY}"),
                days => put_weekdays(out, days),
            }
        }
        if self.dates.0 != 0 {
            put!(out, " --datestart {}", stamp(self.dates.0, 'T'));
        }
        if self.dates.1 != 0 {
            put!(out, " --datestop {}", stamp(self.dates.1, 'T'));
        }
        if self.is_kernel_zone {
            out.push_str(" --kerneltz");
        }
        if self.is_contiguous {
            out.push_str(" --contiguous");
        }
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str(" TIME");
        if self.times != (0, DAY - 1) {
            put!(out, " from {} to {}", clock(self.times.0), clock(self.times.1));
        }
        if self.weekdays != ALL_WEEKDAYS {
            out.push_str(" on ");
            put_weekdays(out, self.weekdays);
        }
        if self.monthdays != ALL_MONTHDAYS {
            out.push_str(" on ");
            put_monthdays(out, self.monthdays, ordinal);
        }
        if self.dates.0 != 0 {
            put!(out, " starting from {}", stamp(self.dates.0, ' '));
        }
        if self.dates.1 != LAST {
            put!(out, " until date {}", stamp(self.dates.1, ' '));
        }
        if !self.is_kernel_zone {
            out.push_str(" UTC");
        }
        if self.is_contiguous {
            out.push_str(" contiguous");
        }
    }
}

fn put_weekdays(out: &mut String, bits: u8) {
    let mut comma = "";
    for (_, name) in (1..).zip(WEEKDAYS).filter(|(day, _)| bits & (1 << day) != 0) {
        put!(out, "{comma}{name}");
        comma = ",";
    }
}

fn put_monthdays(out: &mut String, bits: u32, ending: fn(u32) -> &'static str) {
    let mut comma = "";
    for day in (1..32).filter(|day| bits & (1 << day) != 0) {
        put!(out, "{comma}{day}{}", ending(day));
        comma = ",";
    }
}

fn ordinal(day: u32) -> &'static str {
    // iptables ends 11 to 13 as 1 to 3.
    match day % 10 {
        1 => "st",
        2 => "nd",
        3 => "rd",
        _ => "th",
    }
}

fn weekdays(text: &str) -> Result<u8, Error> {
    let mut bits = 0;
    for word in text.split(',') {
        let by_number = match number(word) {
            Some(0) => return Err(Error::parameter("No, the week does NOT begin with Sunday.")),
            day => day.filter(|day| *day <= NO_DAY.into()).map(|day| day as u8),
        };
        let is_like = |name: &str| {
            let start = word.get(..word.len().min(3)).filter(|start| start.len() >= 2);
            start.is_some_and(|start| name.starts_with(start))
        };
        let by_name = || WEEKDAYS.iter().position(|name| is_like(name)).map(|day| day as u8 + 1);
        let day = by_number.or_else(by_name);
        let day = day.ok_or_else(|| Error::parameter(format!("{word} is not a valid day specifier")))?;
        bits |= 1_u16 << day;
    }
    Ok(bits as u8 & ALL_WEEKDAYS)
}

fn monthdays(text: &str) -> Result<u32, Error> {
    let mut bits = 0;
    for word in text.split(',') {
        let day = number(word).filter(|day| (0..=31).contains(day));
        bits |= 1 << day.ok_or_else(|| Error::parameter(format!("{word} is not a valid day for --monthdays")))?;
    }
    // A day 0 there never is.
    Ok(bits & ALL_MONTHDAYS)
}

fn decimal(text: &str) -> Option<u32> {
    text.trim_start_matches(is_blank).parse().ok()
}

/// `hh:mm[:ss]`.
fn time(text: &str) -> Result<u32, Error> {
    let bad = || Error::parameter(format!("invalid time \"{text}\" specified, should be hh:mm[:ss] format and within the boundaries"));
    let parts: Vec<u32> = text.split(':').map(decimal).collect::<Option<_>>().ok_or_else(bad)?;
    match parts[..] {
        [hours, minutes] if hours < 24 && minutes < 60 => Ok((hours * 60 + minutes) * 60),
        [hours, minutes, seconds] if hours < 24 && minutes < 60 && seconds < 60 => {
            Ok((hours * 60 + minutes) * 60 + seconds)
        }
        _ => Err(bad()),
    }
}

/// `YYYY[-MM[-DD[Thh[:mm[:ss]]]]]`, from 1970 to 2038.
fn date(text: &str) -> Result<u32, Error> {
    let bad = || Error::parameter(format!("Invalid date \"{text}\" specified. Should be YYYY[-MM[-DD[Thh[:mm[:ss]]]]]"));
    let (day, clock) = text.split_once('T').unwrap_or((text, ""));
    let numbers = |text: &str, separator: char| -> Option<Vec<u32>> {
        text.split(separator).filter(|part| !text.is_empty() || !part.is_empty()).map(decimal).collect()
    };
    let days = numbers(day, '-').ok_or_else(bad)?;
    let times = if clock.is_empty() { Vec::new() } else { numbers(clock, ':').ok_or_else(bad)? };
    let at = |list: &[u32], index: usize, default: u32| list.get(index).copied().unwrap_or(default);
    let (year, month, day) = (at(&days, 0, 0), at(&days, 1, 1), at(&days, 2, 1));
    let (hours, minutes, seconds) = (at(&times, 0, 0), at(&times, 1, 0), at(&times, 2, 0));
    let is_sound = days.len() <= 3
        && times.len() <= 3
        && (1970..=2038).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hours < 24
        && minutes < 60
        && seconds < 60;
    if !is_sound {
        return Err(bad());
    }
    let seconds = u64::from(days_from_1970(year, month, day)) * u64::from(DAY)
        + u64::from((hours * 60 + minutes) * 60 + seconds);
    u32::try_from(seconds).ok().filter(|seconds| *seconds <= LAST).ok_or_else(bad)
}

/// Days of the Gregorian calendar (H. Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_1970(year: u32, month: u32, day: u32) -> u32 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year / 400;
    let of_era = year % 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The opposite: year, month, day.
fn date_of(days: u32) -> (u32, u32, u32) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u32::from(month <= 2), month, day)
}

fn clock(seconds: u32) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn stamp(seconds: u32, between: char) -> String {
    let (year, month, day) = date_of(seconds / DAY);
    format!("{year:04}-{month:02}-{day:02}{between}{}", clock(seconds % DAY))
}

impl Match for Time {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let seconds = if self.is_kernel_zone { view.tables.zone.local(view.wall) } else { view.wall };
        if seconds < self.dates.0.into() || seconds > self.dates.1.into() {
            return false;
        }
        let mut days = (seconds / u64::from(DAY)) as u32;
        let of_day = (seconds % u64::from(DAY)) as u32;
        let (start, stop) = self.times;
        // From one moment to the same is the whole day.
        if start < stop {
            if of_day < start || of_day > stop {
                return false;
            }
        } else {
            if of_day < start && of_day > stop {
                return false;
            }
            // Behind midnight it is still the evening's day.
            if self.is_contiguous && of_day <= stop {
                days = days.saturating_sub(1);
            }
        }
        // 1970 began on a Thursday.
        let weekday = (days + 3) % 7 + 1;
        let (.., monthday) = date_of(days);
        self.weekdays & (1 << weekday) != 0 && self.monthdays & (1 << monthday) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_read_as_they_are_written() {
        for (text, seconds) in [("1970-01-01T00:00:00", 0), ("2026-02-01T12:00:00", 1_769_947_200), ("2038-01-19T03:14:07", LAST)] {
            assert_eq!(date(text).unwrap(), seconds);
            assert_eq!(stamp(seconds, 'T'), text);
        }
        assert_eq!(date("2026").unwrap(), date("2026-01-01T00:00:00").unwrap());
        for bad in ["1969", "2026-13", "2026-01-01T24", "x", "2039", "2026-01-01-01"] {
            assert!(date(bad).is_err(), "{bad}");
        }
        for days in 0..24_855 {
            let (year, month, day) = date_of(days);
            assert_eq!(days_from_1970(year, month, day), days);
        }
    }
}
