//! What a scrape takes from the control task, so that all that is long is read and written elsewhere.

use std::cell::OnceCell;
use std::sync::Arc;

use lb_core::counters::WorkerCounters;
use lb_core::tables::{Service, Services};

use crate::daemon::Control;
use crate::model::{self, rules::Written};
use crate::stats::Baselines;

/// The services and rules of one moment, and where they are counted: the counts are those of when they are read.
pub(super) struct Moment {
    services: Arc<Services>,
    sorted: OnceCell<Vec<Arc<Service>>>,
    pub(super) rules: Written,
    pub(super) baselines: Baselines,
    pub(super) workers: Vec<Arc<WorkerCounters>>,
}

impl Moment {
    /// Costs the same, however many services and rules there are.
    pub(super) fn of(control: &Control) -> Moment {
        Moment {
            services: control.tables().services.clone(),
            sorted: OnceCell::new(),
            rules: control.written_rules(),
            baselines: control.statistics().baselines().clone(),
            workers: control.plane().counters().to_vec(),
        }
    }

    /// In the order of the model.
    pub(super) fn services(&self) -> &[Arc<Service>] {
        self.sorted.get_or_init(|| {
            let mut sorted: Vec<_> = self.services.iter().cloned().collect();
            sorted.sort_unstable_by_key(|service| model::place(&service.key));
            sorted
        })
    }
}
