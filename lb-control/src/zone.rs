//! The host's time zone, which rules with `-m time --kerneltz` go by: as `TZ` or `/etc/localtime` says.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lb_core::tables::Zone;
use tracing::warn;

/// Changes to summer time and back that are known in advance: of sixty years, where there are two a year.
const CHANGES: usize = 120;

/// As it is now, with what is known to come. UTC where the host does not say.
pub(crate) fn host() -> Zone {
    match TimeZone::try_system() {
        Ok(zone) => from(&zone, Timestamp::now()),
        Err(error) => {
            warn!(%error, "the host's time zone cannot be read: rules go by UTC");
            Zone::default()
        }
    }
}

fn from(zone: &TimeZone, now: Timestamp) -> Zone {
    let changes = zone.following(now).take(CHANGES);
    // None of what follows is before 1970.
    let changes = changes.map(|change| (change.timestamp().as_second() as u64, change.offset().seconds()));
    Zone::new(zone.to_offset(now).seconds(), changes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summer_time_begins_and_ends_when_it_does() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
        let now: Timestamp = "2026-01-15T12:00:00Z".parse().expect("a moment");
        let at = |text: &str| text.parse::<Timestamp>().expect("a moment").as_second() as u64;
        let zone = from(&berlin, now);
        let ahead = |text: &str| zone.local(at(text)) - at(text);
        assert_eq!([ahead("2026-03-29T00:59:59Z"), ahead("2026-03-29T01:00:00Z")], [3600, 7200]);
        assert_eq!([ahead("2026-10-25T00:59:59Z"), ahead("2026-10-25T01:00:00Z")], [7200, 3600]);
        assert_eq!(ahead("2055-07-01T00:00:00Z"), 7200);
    }
}
