//! How everybody else asks the control task.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::Control;
use crate::api::types::{Batch, Command, ErrorBody, ErrorKind, OnError};

/// How long a change is not answered while workers have not adopted it; how often they are looked at, the first of these times without a pause: one
/// that is awake, or naps, needs less than the timer's step, which is a millisecond.
pub(super) const ADOPTION: Duration = Duration::from_secs(1);
const ADOPTION_LOOK: Duration = Duration::from_millis(1);
const QUICK_LOOKS: u32 = 100;

pub(super) type Job = Box<dyn FnOnce(&mut Control) + Send>;

/// How everybody else asks the control task.
#[derive(Clone)]
pub struct Handle {
    pub(super) jobs: mpsc::Sender<Job>,
}

impl Handle {
    /// Has `question` answered between two other requests.
    ///
    /// # Errors
    /// `Unavailable` when the control task has ended.
    pub async fn ask<A: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Control) -> A + Send + 'static,
    ) -> Result<A, ErrorBody> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |control| {
            // Nobody may be waiting any more.
            let _ = reply.send(question(control));
        });
        let stopping = || ErrorBody::new(ErrorKind::Unavailable, "the daemon is stopping");
        self.jobs.send(job).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// Has a change made, and answers when all workers go by it: who asked for it may count on it with the next packet. A
    /// worker that stands still is waited for no longer than [`ADOPTION`].
    ///
    /// # Errors
    /// As [`Handle::ask`].
    pub async fn change<A: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Control) -> A + Send + 'static,
    ) -> Result<A, ErrorBody> {
        let (answer, is_adopted) = self.ask(|control| (change(control), control.is_adopted())).await?;
        let adopted = async {
            // A daemon that stops meanwhile has done it all the same.
            let mut looks = 0;
            while !self.ask(|control| control.is_adopted()).await.unwrap_or(true) {
                looks += 1;
                if looks < QUICK_LOOKS {
                    tokio::task::yield_now().await;
                } else {
                    tokio::time::sleep(ADOPTION_LOOK).await;
                }
            }
        };
        if !is_adopted {
            let _it_stands_still = tokio::time::timeout(ADOPTION, adopted).await;
        }
        Ok(answer)
    }

    /// Does one command, as from the API.
    ///
    /// # Errors
    /// The model's, or `Unavailable`.
    pub async fn command(&self, command: Command) -> Result<(), ErrorBody> {
        let batch = Batch { commands: vec![command], on_error: OnError::Continue };
        let reply = self.change(move |control| control.batch(&batch)).await?;
        reply.failed.into_iter().next().map_or(Ok(()), |failure| Err(failure.error))
    }
}
