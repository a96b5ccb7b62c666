//! `expire_nodest_conn` 1: connections end as their real server goes, and what stands for them; all others stay.

use super::persistent::{listed, persistent};
use super::sysctls::{removes_the_first, with};
use super::*;
use crate::time::Timeout;

const WORKERS: usize = 4;

fn without_the_first(generation: u32, value: u32) -> Arc<Tables> {
    with(generation, "expire_nodest_conn", value, removes_the_first).into()
}

#[test]
fn connections_of_a_removed_server_end_without_a_packet_where_that_is_asked_for() {
    for (value, ends) in [(0, false), (1, true), (2, false)] {
        let mut director = Director::new();
        director.path.adopt(with(2, "expire_nodest_conn", value, |_| ()).into());
        for sport in 4000..4060 {
            director.establish(sport);
        }
        director.path.adopt(without_the_first(3, value));
        director.turn();
        let servers = [2, 3].map(|id| director.counters[0].server(ServerId(id)).active.get());
        assert_eq!(servers, if ends { [0, 30] } else { [30, 30] }, "{value}");
        assert_eq!(director.states().len(), if ends { 30 } else { 60 }, "{value}");
        assert_eq!(director.counters[0].flows.bereft.get(), if ends { 30 } else { 0 }, "{value}");
        director.path.check_connections().unwrap();
    }
}

#[test]
fn a_server_that_is_back_before_the_walk_keeps_its_connections_and_other_tables_begin_none() {
    let mut director = Director::new();
    let all = |generation| with(generation, "expire_nodest_conn", 1, |_| ()).into();
    director.path.adopt(all(2));
    for sport in 4000..4010 {
        director.establish(sport);
    }
    director.path.adopt(without_the_first(3, 1));
    director.path.adopt(all(4));
    director.turn();
    assert_eq!(director.states().len(), 10);
    // Removed while it was not asked for: the client's next packet decides.
    director.path.adopt(without_the_first(5, 0));
    director.path.adopt(without_the_first(6, 1));
    director.turn();
    assert_eq!((director.states().len(), director.counters[0].flows.bereft.get()), (10, 0));
}

#[test]
fn a_template_goes_with_the_last_of_its_connections_whichever_worker_has_them() {
    let counters = counters(WORKERS);
    let uses = Arc::new(Uses::new(WORKERS, 100));
    let mut paths: Vec<_> = (0..WORKERS).map(|n| path(n as u16, &counters, &uses)).collect();
    let tables = |generation, edit: fn(&mut Service)| {
        let mut tables = persistent(generation, edit);
        tables.settings.sysctls.expire_nodest_conn = 1;
        Arc::new(tables)
    };
    for path in &mut paths {
        path.adopt(tables(1, |_| ()));
    }
    for n in 0..40u16 {
        deliver(&mut paths, usize::from(n) % WORKERS, WAN, &from_client(4000 + n, "S"));
    }
    let all = |paths: &[Path<Frame>], now| paths.iter().map(|path| listed(path, now).len()).sum::<usize>();
    assert_eq!(all(&paths, Tick(100)), 41);
    // One worker after the other; the one with the template may be the first.
    let (mut now, mut out) = (Tick(100), Out::default());
    for _ in 0..WORKERS {
        paths.rotate_left(1);
        paths[0].adopt(tables(2, removes_the_first));
        for _ in 0..10 {
            paths[0].turn(now, &mut out);
        }
    }
    let left = all(&paths, now);
    assert!(left <= 1, "{left}");
    for _ in 0..3 {
        now = now.after(Timeout::from_secs(1));
        paths.iter_mut().for_each(|path| path.turn(now, &mut out));
    }
    assert_eq!(all(&paths, now), 0);
    for path in &paths {
        assert_eq!(path.check_connections(), Ok(()));
        let cells = [2, 3].map(|id| path.mine.server(ServerId(id)));
        assert!(
            cells
                .iter()
                .all(|cell| (cell.active.get(), cell.inactive.get(), cell.persistent.get()) == (0, 0, 0))
        );
    }
}
