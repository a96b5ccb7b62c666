//! Packets in a time, as `limit` and `hashlimit` write it.

use super::text::atoi;

/// Units of 0.1 ms in a second.
pub(super) const SCALE: u32 = 10_000;
pub(super) const HOUR: u32 = SCALE * 3600;

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Rate {
    pub(super) packets: u32,
    /// In units of 0.1 ms.
    pub(super) unit: u32,
}

/// (what it begins with, seconds).
const UNITS: [(&str, u32); 4] = [("second", 1), ("minute", 60), ("hour", 3600), ("day", 86_400)];

/// Of a unit of time by name, or by the beginning of one.
pub(super) fn seconds(unit: &str) -> Option<u32> {
    let unit = unit.to_ascii_lowercase();
    let is_it = |(name, _): &&(&str, u32)| !unit.is_empty() && name.starts_with(&unit);
    UNITS.iter().find(is_it).map(|(_, seconds)| *seconds)
}

/// Packets, never 0, and the seconds in which they may come.
pub(super) fn read(text: &str) -> Option<(u32, u32)> {
    let (packets, unit) = text.split_once('/').unwrap_or((text, "second"));
    let packets = match atoi(packets) {
        0 => return None,
        packets => u32::try_from(packets).unwrap_or(u32::MAX),
    };
    Some((packets, seconds(unit)?))
}

impl Rate {
    /// `5`, `5/s`, `5/minute`. What stands between number and unit is passed over, as by iptables; a number below zero is very large.
    pub(super) fn read(text: &str) -> Option<Rate> {
        let (packets, unit) = read(text)?;
        Some(Rate { packets, unit: unit * SCALE })
    }

    /// What a packet costs, in units of 0.1 ms; 0: too fast to be counted.
    pub(super) fn cost(self) -> u32 {
        self.unit.checked_div(self.packets).unwrap_or(0)
    }

    /// As iptables prints it: in the smallest unit in which it comes out even, of those from a day down.
    pub(super) fn shown(self) -> String {
        shown(self.cost().into(), SCALE.into())
    }
}

/// A cost in `scale` units a second as packets in a time.
pub(super) fn shown(cost: u64, scale: u64) -> String {
    let units = [(86_400, "day"), (3600, "hour"), (60, "min"), (1, "sec")];
    let cost = cost.max(1);
    let mut best = (scale * 86_400, "day");
    for (seconds, name) in units {
        let unit = scale * seconds;
        if name != "day" && (cost > unit || unit / cost < unit % cost) {
            break;
        }
        best = (unit, name);
    }
    format!("{}/{}", best.0 / cost, best.1)
}
