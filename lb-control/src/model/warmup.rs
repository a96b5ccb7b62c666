//! Slow start (`warmup`): a real server that comes gets its weight little by little.
//!
//! The control plane does it, by weights that it publishes: workers and schedulers see a change of weights like any other, and need no
//! clock. While a server of a service warms up, all weights of the service are [`SCALE`] times what the operator wrote, so that there is something between
//! 0 and 1, and the one that warms up has from 1 to all 32 parts of its own, in 32 even steps. That is what ratios of weights mean something to: wrr,
//! wlc, sed, nq, twos, maglev. To ovf, lblc and lblcr a weight is a number of connections: there weights are not scaled, and the
//! server has 1 at least. For the others weights do not matter, or each step would move clients (sh, mh), or
//! a standby would take over (fo): nothing warms up.
//!
//! A server comes when it is added to a service, or gets a weight after 0, while the service has another one with a weight
//! that does not warm up: where all come at once nobody has to be spared. Times are of the model's own clock ([`Model::pass`]). A restart of `lbd` ends all warming up.

use std::time::Duration;

use hashbrown::HashMap;
use lb_core::ids::ServerId;
use lb_core::ipvs::SchedulerKind;
use lb_core::ipvs::scheduler::{Scheduler, Warms};
use lb_core::tables::{Server, Service};

use super::MAX_WEIGHT;

/// Parts of a weight.
const SCALE: u32 = 32;

/// Of how many parts a weight is while a server warms up; `None`: the scheduler has nothing warm up.
fn scale(kind: SchedulerKind) -> Option<u32> {
    match kind.warms() {
        Warms::Parts => Some(SCALE),
        Warms::Whole => Some(1),
        Warms::Never => None,
    }
}

/// The servers of one service that warm up, and since when.
#[derive(Clone, Debug, Default)]
pub(super) struct Warming(HashMap<ServerId, Duration>);

impl Warming {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The servers of `old` became `servers`, with the weights that the operator gave.
    pub(super) fn follow(&mut self, old: &Service, scheduler: Scheduler, servers: &[Server], now: Duration) {
        if scheduler.warmup == 0 || scale(scheduler.kind).is_none() {
            return self.0.clear();
        }
        let weights: HashMap<ServerId, u32> =
            old.servers.iter().map(|server| (server.id, old.wanted_weight(server))).collect();
        let had_weight = |id: &ServerId| weights.get(id).is_some_and(|&weight| weight > 0);
        let is_warm =
            |server: &Server| server.weight > 0 && had_weight(&server.id) && !self.0.contains_key(&server.id);
        let spares_others = servers.iter().any(is_warm);
        let stays = |id: &ServerId| servers.iter().any(|server| server.id == *id && server.weight > 0);
        self.0.retain(|id, _| stays(id));
        if spares_others {
            let comes = servers.iter().filter(|server| server.weight > 0 && !had_weight(&server.id));
            self.0.extend(comes.map(|server| (server.id, now)));
        }
    }

    /// Gives `servers`, which have the weights that the operator gave, those of this moment; returns the former where they differ. Who has its
    /// whole weight does not warm up any more.
    pub(super) fn weigh(
        &mut self,
        scheduler: Scheduler,
        servers: &mut [Server],
        now: Duration,
    ) -> HashMap<ServerId, u32> {
        let whole = Duration::from_secs(scheduler.warmup.into());
        self.0.retain(|_, since| now.saturating_sub(*since) < whole);
        let mut wanted = HashMap::new();
        let greatest = servers.iter().map(|server| server.weight).max().unwrap_or(0);
        let Some(scale) = scale(scheduler.kind).filter(|_| !self.0.is_empty()) else { return wanted };
        let scale = if greatest > MAX_WEIGHT / scale { 1 } else { scale };
        for server in servers {
            let weight = u128::from(server.weight) * u128::from(scale);
            let now = match self.0.get(&server.id) {
                None => weight,
                Some(&since) => {
                    let parts = now.saturating_sub(since).as_nanos() * u128::from(SCALE) / whole.as_nanos();
                    (weight * parts.max(1) / u128::from(SCALE)).max(1)
                }
            };
            let now = u32::try_from(now).unwrap_or(MAX_WEIGHT);
            if now != server.weight {
                wanted.insert(server.id, server.weight);
                server.weight = now;
            }
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{service, with_servers};
    use super::super::{Model, server_spec};
    use super::*;
    use crate::api::types::{Command, ServerSpec, ServiceSpec};

    const WEB: &str = "tcp/192.0.2.1:80";

    fn put(model: &mut Model, server: &str, weight: u32, is_new: bool) {
        let server = ServerSpec { weight, ..ServerSpec::new(server.parse().expect("an address")) };
        let service = service(WEB);
        let command = if is_new {
            Command::AddServer { service, server }
        } else {
            Command::EditServer { service, server }
        };
        model.apply(&command).expect("right");
    }

    fn model(scheduler: &str, warmup: u32) -> Model {
        let mut model = with_servers(&[]);
        let spec = ServiceSpec { warmup, ..ServiceSpec::new(service(WEB), scheduler) };
        model.apply(&Command::EditService(spec)).expect("right");
        put(&mut model, "10.0.0.1:80", 2, true);
        model
    }

    /// What schedulers see, and what the operator is shown: of the oldest server first.
    fn weights(model: &Model) -> (Vec<u32>, Vec<u32>) {
        let service = model.find(&service(WEB)).expect("it is there");
        let servers = || service.servers.iter().rev();
        let seen = servers().map(|server| server.weight).collect();
        (seen, servers().map(|server| server_spec(service, server).weight).collect())
    }

    fn at(model: &mut Model, seconds: f64) -> (Vec<u32>, bool) {
        let publish = model.pass(Duration::from_secs_f64(seconds)).publish;
        let (seen, shown) = weights(model);
        assert!(shown.iter().all(|&weight| weight <= 3), "the operator sees what he wrote: {shown:?}");
        (seen, publish)
    }

    #[test]
    fn a_server_that_is_added_gets_its_weight_in_32_even_steps() {
        let mut model = model("wlc", 64);
        assert_eq!(at(&mut model, 100.0), (vec![2], false));
        put(&mut model, "10.0.0.2:80", 1, true);
        assert_eq!(weights(&model), (vec![64, 1], vec![2, 1]));
        assert_eq!(at(&mut model, 101.0), (vec![64, 1], false), "nothing new to publish");
        assert_eq!(at(&mut model, 104.1), (vec![64, 2], true));
        assert_eq!(at(&mut model, 132.1), (vec![64, 16], true));
        assert_eq!(at(&mut model, 163.9), (vec![64, 31], true));
        assert_eq!(at(&mut model, 164.0), (vec![2, 1], true), "as written");
        assert_eq!(at(&mut model, 999.0), (vec![2, 1], false));
    }

    #[test]
    fn a_server_that_comes_back_from_weight_0_warms_up_and_other_edits_do_not_begin_it_anew() {
        let mut model = model("wrr", 32);
        put(&mut model, "10.0.0.2:80", 1, true);
        assert_eq!(at(&mut model, 100.0).0, [2, 1]);
        put(&mut model, "10.0.0.2:80", 0, false);
        put(&mut model, "10.0.0.2:80", 3, false);
        assert_eq!(weights(&model), (vec![64, 3], vec![2, 3]));
        assert_eq!(at(&mut model, 116.0).0, [64, 48]);
        put(&mut model, "10.0.0.2:80", 1, false);
        put(&mut model, "10.0.0.1:80", 1, false);
        assert_eq!(weights(&model), (vec![32, 16], vec![1, 1]));
    }

    #[test]
    fn where_a_weight_is_a_number_of_connections_it_is_not_scaled() {
        let mut model = model("ovf", 32);
        put(&mut model, "10.0.0.2:80", 3, true);
        assert_eq!(weights(&model).0, [2, 1]);
        assert_eq!(at(&mut model, 24.0).0, [2, 2]);
    }

    #[test]
    fn nothing_warms_up_without_a_warm_server_beside_it_or_a_scheduler_that_weighs() {
        let mut empty = model("wlc", 64);
        let only =
            Command::DeleteServer { service: service(WEB), server: "10.0.0.1:80".parse().expect("right") };
        empty.apply(&only).expect("right");
        let add = |n: u8| Command::AddServer {
            service: service(WEB),
            server: ServerSpec::new(format!("10.0.0.{n}:80").parse().expect("right")),
        };
        empty.apply_all(&[add(1), add(2), add(3)]).expect("right");
        assert_eq!(weights(&empty).0, [1, 1, 1], "all came at once");
        for scheduler in ["rr", "lc", "dh", "sh", "mh", "fo"] {
            let mut model = model(scheduler, 64);
            put(&mut model, "10.0.0.2:80", 3, true);
            assert_eq!(weights(&model).0, [2, 3], "{scheduler}");
        }
        let mut cold = model("wlc", 0);
        put(&mut cold, "10.0.0.2:80", 3, true);
        assert_eq!(weights(&cold).0, [2, 3]);
    }

    #[test]
    fn weights_too_great_to_be_scaled_are_not() {
        let mut model = model("wlc", 32);
        put(&mut model, "10.0.0.2:80", MAX_WEIGHT, true);
        model.pass(Duration::from_secs(8));
        assert_eq!(weights(&model).0, [2, MAX_WEIGHT / 4]);
    }

    #[test]
    fn an_end_of_the_warmup_setting_ends_it_for_all() {
        let mut model = model("wlc", 64);
        put(&mut model, "10.0.0.2:80", 1, true);
        let plain = ServiceSpec::new(service(WEB), "wlc");
        model.apply(&Command::EditService(plain)).expect("right");
        assert_eq!(weights(&model).0, [2, 1]);
    }
}
