//! Any command lines of conntrack end with one of its exit codes; one that cannot be read does nothing, and what is ended is
//! what was listed.
//!
//! Each line of the input is a command line; its words stand between blanks.

use std::net::IpAddr;

use lb_control::api::conntrack::{
    ConntrackChange, ConntrackEvent, ConntrackNew, ConntrackStatistics, Counted, Ends, EventName,
    Expectation, ExpectationEvent, ExpectationFilter, ExpectationNew, Filter, StatusBit, Tracked,
};
use lb_control::cli::conntrack::{self, Each, Tracker};
use lb_control::cli::director::DirectorError;
use lb_control::cli::labels::LabelNames;

/// A tracker of a few connections, which checks what it is asked.
struct InProcess(Vec<Tracked>);

fn connections() -> Vec<Tracked> {
    let ipv4 = |last: u8| IpAddr::from([10, 0, 0, last]);
    let ipv6 = |last: u16| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]);
    let connection =
        |id: u32, protocol: u8, state: Option<&str>, (src, dst, to): (IpAddr, IpAddr, IpAddr)| Tracked {
            protocol,
            expires: 60 * id,
            state: state.map(str::to_owned),
            status: vec![if id == 1 { StatusBit::Assured } else { StatusBit::Unreplied }],
            original: Ends { src, dst, sport: 1000 + id as u16, dport: 80 },
            reply: Ends { src: to, dst: src, sport: 80, dport: 1000 + id as u16 },
            mark: id - 1,
            labels: if id == 3 { vec![0, 127] } else { Vec::new() },
            zone: 0,
            orig_zone: if id == 4 { 5 } else { 0 },
            reply_zone: 0,
            helper: None,
            id,
            counted: (id == 2).then(Counted::default),
        };
    vec![
        connection(1, 6, Some("ESTABLISHED"), (ipv4(1), ipv4(2), ipv4(3))),
        connection(2, 17, None, (ipv4(1), ipv4(2), ipv4(2))),
        connection(3, 58, None, (ipv6(1), ipv6(2), ipv6(2))),
        connection(4, 47, None, (ipv4(4), ipv4(5), ipv4(5))),
        connection(5, 132, Some("CLOSED"), (ipv6(1), ipv6(2), ipv6(3))),
    ]
}

impl Tracker for InProcess {
    fn tracked(&mut self, filter: &Filter, each: Each<'_>) -> Result<(), DirectorError> {
        // A filter survives its way to the daemon.
        let text = serde_json::to_string(filter).expect("JSON");
        assert_eq!(serde_json::from_str::<Filter>(&text).expect("the same"), *filter);
        let query = filter.query();
        assert!(query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'), "{query}");
        self.0.iter().filter(|tracked| filter.matches(tracked)).cloned().try_for_each(each)?;
        Ok(())
    }

    fn end_tracked(&mut self, filter: &Filter, each: Each<'_>) -> Result<(), DirectorError> {
        self.tracked(filter, each)?;
        self.0.retain(|tracked| !filter.matches(tracked));
        Ok(())
    }

    fn change_tracked(
        &mut self,
        filter: &Filter,
        change: &ConntrackChange,
        each: Each<'_>,
    ) -> Result<(), DirectorError> {
        match change.check() {
            Ok(()) => self.tracked(filter, each),
            Err(_) => Ok(()),
        }
    }

    fn begin_tracked(&mut self, new: &ConntrackNew) -> Result<(), DirectorError> {
        // What describes a connection survives its way, and describes one.
        let text = serde_json::to_string(new).expect("JSON");
        assert_eq!(serde_json::from_str::<ConntrackNew>(&text).expect("the same"), *new);
        let _ = new.read();
        Ok(())
    }

    fn expected(
        &mut self,
        _: &ExpectationFilter,
        _: &mut dyn FnMut(Expectation) -> std::io::Result<()>,
    ) -> Result<(), DirectorError> {
        Ok(())
    }

    fn end_expected(
        &mut self,
        _: &ExpectationFilter,
        _: &mut dyn FnMut(Expectation) -> std::io::Result<()>,
    ) -> Result<(), DirectorError> {
        Ok(())
    }

    fn announce(&mut self, new: &ExpectationNew) -> Result<(), DirectorError> {
        // What describes one survives its way.
        let text = serde_json::to_string(new).expect("JSON");
        assert_eq!(serde_json::from_str::<ExpectationNew>(&text).expect("the same"), *new);
        let _ = new.read();
        Ok(())
    }

    fn expectation_events(
        &mut self,
        filter: &ExpectationFilter,
        each: &mut dyn FnMut(ExpectationEvent) -> std::io::Result<()>,
    ) -> Result<(), DirectorError> {
        let query = filter.query();
        assert!(query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'), "{query}");
        let _ = each;
        Ok(())
    }

    fn events(
        &mut self,
        filter: &Filter,
        each: &mut dyn FnMut(ConntrackEvent) -> std::io::Result<()>,
    ) -> Result<(), DirectorError> {
        let events = [EventName::New, EventName::Update, EventName::Destroy];
        let fitting = self.0.iter().filter(|tracked| filter.matches(tracked)).cloned();
        let event = |(tracked, event)| ConntrackEvent { event, at: 1_795_954_311_844_050, tracked };
        Ok(fitting.zip(events.into_iter().cycle()).map(event).try_for_each(each)?)
    }

    fn count(&mut self) -> Result<u64, DirectorError> {
        Ok(self.0.len() as u64)
    }

    fn statistics(&mut self) -> Result<Vec<ConntrackStatistics>, DirectorError> {
        Ok(vec![ConntrackStatistics {
            worker: 0,
            cpu: 1,
            found: 2,
            invalid: 6,
            insert: 3,
            insert_failed: 4,
            drop: 5,
            early_drop: 7,
            expect_new: 8,
            expect_create: 9,
            expect_delete: 10,
        }])
    }
}

pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let names = LabelNames::read("0 zero\n5 five\n127 last\n");
    for line in text.lines().take(100) {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let mut tracker = InProcess(connections());
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let code = conntrack::run_with_names(&words, &names, &mut tracker, &mut out, &mut errors);
        let (out, errors) = (String::from_utf8(out).expect("text"), String::from_utf8(errors).expect("text"));
        assert!(matches!(code, 0..=2), "{words:?}: exit code {code}");
        let ended = connections().len() - tracker.0.len();
        if code == 2 {
            assert_eq!((ended, out.as_str()), (0, ""), "{words:?} cannot be read and did something");
            assert!(errors.ends_with("for more information.\n"), "{words:?}: {errors}");
        }
        if let Some((count, _)) = errors.rsplit_once(" flow entries have been deleted.") {
            let count = count.rsplit(' ').next().unwrap_or_default();
            assert_eq!(count, ended.to_string(), "{words:?}: {errors}");
            assert_eq!(code == 1, ended == 0, "{words:?}");
        }
        if let Some((count, _)) = errors.rsplit_once(" flow entries have been shown.") {
            let count: usize = count.rsplit(' ').next().unwrap_or_default().parse().expect("a number");
            let lines = out.lines().filter(|line| !line.starts_with("<?xml") && !line.contains("conntrack>"));
            assert_eq!(lines.count(), count, "{words:?}: {out}");
        }
    }
}
