//! Timers of rules over the API (`-j IDLETIMER`): how long it is until they run out.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::server::Api;
use super::spec::is_false;
use super::types::ErrorBody;

/// Answer to `GET /v1/idletimers`: those that rules have, by their labels.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct IdleTimersReply {
    pub timers: Vec<IdleTimerView>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
pub struct IdleTimerView {
    pub label: String,
    /// Seconds until it runs out if no packet comes; 0: it has.
    pub left: u32,
    /// It was made with `--alarm`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub alarm: bool,
}

/// The timers.
#[utoipa::path(get, path = "/v1/idletimers", responses((status = 200, body = IdleTimersReply)))]
pub(super) async fn idle_timers(State(api): State<Api>) -> Result<Json<IdleTimersReply>, ErrorBody> {
    Ok(Json(IdleTimersReply { timers: api.control.ask(|control| control.idle_timers()).await? }))
}
