//! The API's routes: what each request asks the control task, and how the answer looks.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use lb_core::path::Sought;
use lb_core::rule::Table;

use super::connections;
use super::conntrack::routes;
use super::events::Hub;
use super::explain::{Explanation, Probe};
use super::lines::{self, Lines};
use super::rules::{RuleBatch, RuleFamily, RuleReply, RulesReply};
use super::types::{
    Batch, BatchReply, DropView, ErrorBody, ErrorKind, FingerprintView, PortView, ServicesReply, SetsReply,
    Status, SyncDaemon, SysctlValue, Timeouts, WorkerView,
};
use super::{accounts, idle_timers, openapi, page, scrape, trace};
use crate::daemon::{Control, Handle};
use crate::explain;
use crate::plane::Plane;
use crate::sets::{self, Format, SetView};

/// Longest body of a request, bytes: a restore of some 100,000 lines.
pub const MAX_BODY: usize = 16 << 20;
/// Commands of one batch: all of them are done between two other requests.
pub const MAX_COMMANDS: usize = 100_000;
/// Bytes of a body that is too long that are still read.
const MAX_DISCARDED: usize = 64 << 20;
/// A body must have come by then.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A control task that takes longer to say whether all is well is not well.
const READY_TIMEOUT: Duration = Duration::from_secs(1);
/// Lists of connections at a time: each keeps a thread busy.
const LISTINGS: usize = 4;

#[derive(Clone)]
pub(super) struct Api {
    pub(super) control: Handle,
    plane: Arc<dyn Plane>,
    listings: Arc<Semaphore>,
    pub(super) events: Hub,
}

/// Everything, for the UNIX socket.
pub fn unix_router(control: Handle, plane: Arc<dyn Plane>) -> Router {
    let api = Router::new()
        .route("/v1/commands", post(commands))
        .route("/v1/services", get(services))
        .route("/v1/timeouts", get(timeouts))
        .route("/v1/sysctl", get(sysctl))
        .route("/v1/sync", get(sync))
        .route("/v1/connections", get(connections::connections))
        .route("/v1/connections/count", get(connections::count_connections))
        .route(
            "/v1/conntrack",
            get(routes::conntrack)
                .post(routes::begin_conntrack)
                .delete(routes::end_conntrack)
                .patch(routes::change_conntrack),
        )
        .route("/v1/conntrack/count", get(routes::count_conntrack))
        .route(
            "/v1/conntrack/expectations",
            get(routes::expectations).post(routes::add_expectation).delete(routes::end_expectations),
        )
        .route("/v1/conntrack/expectations/events", get(routes::expectation_events))
        .route("/v1/conntrack/events", get(routes::conntrack_events))
        .route("/v1/conntrack/statistics", get(routes::conntrack_statistics))
        .route("/v1/sets", get(sets).post(set_lines))
        .route("/v1/sets/list", get(list_sets))
        .route("/v1/fingerprints", get(fingerprints))
        .route("/v1/status", get(status))
        .route("/v1/ports", get(ports))
        .route("/v1/workers", get(workers))
        .route("/v1/drops", get(drops))
        .route("/v1/rules", get(rules).post(change_rules))
        .route("/v1/idletimers", get(idle_timers::idle_timers))
        .route("/v1/nfacct", get(accounts::accounts).post(accounts::change_accounts))
        .route("/v1/nfacct/reset", post(accounts::reset_accounts))
        .route("/v1/explain", post(explain_packet))
        .route("/v1/trace", get(trace::trace))
        .route("/v1/openapi.json", get(describe));
    finish(api.merge(public()), control, plane)
}

/// Metrics, health and the status page, for the TCP address: nothing that changes anything.
pub fn tcp_router(control: Handle, plane: Arc<dyn Plane>) -> Router {
    finish(public(), control, plane)
}

fn public() -> Router<Api> {
    Router::new()
        .route("/", get(status_page))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
}

fn finish(router: Router<Api>, control: Handle, plane: Arc<dyn Plane>) -> Router {
    router.fallback(not_found).method_not_allowed_fallback(method_not_allowed).with_state(Api {
        control,
        plane,
        listings: Arc::new(Semaphore::new(LISTINGS)),
        events: Hub::new(),
    })
}

impl IntoResponse for ErrorBody {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self)).into_response()
    }
}

/// What stands behind `?`, if it can be read.
pub(super) type Asked<T> = Result<Query<T>, QueryRejection>;

pub(super) fn read_query<T>(asked: Asked<T>) -> Result<T, ErrorBody> {
    asked.map(|Query(asked)| asked).map_err(|rejection| bad_request(rejection.body_text()))
}

pub(super) fn bad_request(why: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorKind::BadRequest, why)
}

/// A request may have so many commands, and has `count`.
pub(super) fn no_more_than(most: usize, count: usize) -> Result<(), ErrorBody> {
    if count > most {
        let message = format!("{count} commands are more than {most} at a time");
        return Err(ErrorBody::new(ErrorKind::TooLarge, message));
    }
    Ok(())
}

/// Does commands, in their order, all at one moment.
#[utoipa::path(post, path = "/v1/commands", request_body = Batch, responses(
    (status = 200, description = "done, or done in part: see `failed`", body = BatchReply),
    (status = 400, description = "no batch of commands; nothing was done", body = ErrorBody),
    (status = 413, description = "longer than 16 MiB, or more than 100,000 commands", body = ErrorBody),
))]
pub(super) async fn commands(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<BatchReply>, ErrorBody> {
    let batch: Batch = read_json(request).await?;
    no_more_than(MAX_COMMANDS, batch.commands.len())?;
    Ok(Json(api.control.change(move |control| control.batch(&batch)).await?))
}

pub(super) async fn read_json<T: DeserializeOwned>(request: Request) -> Result<T, ErrorBody> {
    let body = read_body(request).await?;
    serde_json::from_slice(&body).map_err(|error| bad_request(format!("body: {error}")))
}

/// Reads the whole body. One that is too long is read on for a while all the same: a connection that is closed with bytes
/// unread is reset, and the client would not see why.
async fn read_body(request: Request) -> Result<Vec<u8>, ErrorBody> {
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let announced = announced.and_then(|length| length.parse::<usize>().ok());
    let mut is_too_long = announced.is_some_and(|length| length > MAX_BODY);
    let (mut bytes, mut discarded) = (Vec::new(), 0);
    let mut body = request.into_body();
    let read = async {
        while let Some(frame) = body.frame().await {
            let data = match frame.map(|frame| frame.into_data()) {
                Ok(Ok(data)) => data,
                // Trailers.
                Ok(Err(_)) => continue,
                Err(_) if is_too_long => break,
                Err(error) => return Err(bad_request(format!("body: {error}"))),
            };
            is_too_long |= bytes.len() + data.len() > MAX_BODY;
            if !is_too_long {
                bytes.extend_from_slice(&data);
                continue;
            }
            bytes = Vec::new();
            discarded += data.len();
            if discarded > MAX_DISCARDED {
                break;
            }
        }
        Ok(())
    };
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(read) => read?,
        Err(_) => {
            let why = format!("the request's body did not come within {} s", BODY_TIMEOUT.as_secs());
            return Err(bad_request(why));
        }
    }
    if is_too_long {
        let message = format!("the request's body is longer than {MAX_BODY} bytes");
        return Err(ErrorBody::new(ErrorKind::TooLarge, message));
    }
    Ok(bytes)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    service: Option<String>,
    keys: Option<bool>,
}

/// Virtual services with their real servers and statistics.
#[utoipa::path(get, path = "/v1/services", params(
    ("service" = Option<String>, Query, description = "only this one: tcp/192.0.2.1:80"),
    ("keys" = Option<bool>, Query, description = "true: keys of QUIC-LB are shown")
), responses(
    (status = 200, body = ServicesReply),
    (status = 400, description = "no address of a service", body = ErrorBody),
    (status = 404, description = "no such service", body = ErrorBody),
))]
pub(super) async fn services(
    State(api): State<Api>,
    which: Asked<Which>,
) -> Result<Json<ServicesReply>, ErrorBody> {
    let which = read_query(which)?;
    let reveals = which.keys.unwrap_or(false);
    let which = which.service.map(|text| text.parse()).transpose();
    let which = which.map_err(|error| bad_request(format!("{error}")))?;
    let of = if reveals { Control::whole_services } else { Control::services };
    let services = api.control.ask(move |control| of(control, which.as_ref())).await??;
    Ok(Json(ServicesReply { services }))
}

/// Idle seconds after which connections are forgotten.
#[utoipa::path(get, path = "/v1/timeouts", responses((status = 200, body = Timeouts)))]
pub(super) async fn timeouts(State(api): State<Api>) -> Result<Json<Timeouts>, ErrorBody> {
    Ok(Json(api.control.ask(|control| control.model().timeouts()).await?))
}

/// The switches of the kernel's IPVS.
#[utoipa::path(get, path = "/v1/sysctl", responses((status = 200, body = [SysctlValue])))]
pub(super) async fn sysctl(State(api): State<Api>) -> Result<Json<Vec<SysctlValue>>, ErrorBody> {
    let sysctls = api.control.ask(|control| control.model().sysctls()).await?;
    let values = sysctls.listed().into_iter();
    Ok(Json(values.map(|(name, value)| SysctlValue { name: name.to_owned(), value }).collect()))
}

/// The sync daemons, the master first.
#[utoipa::path(get, path = "/v1/sync", responses((status = 200, body = [SyncDaemon])))]
pub(super) async fn sync(State(api): State<Api>) -> Result<Json<Vec<SyncDaemon>>, ErrorBody> {
    Ok(Json(api.control.ask(|control| control.model().sync_daemons().cloned().collect()).await?))
}

impl Api {
    fn place(&self) -> Result<OwnedSemaphorePermit, ErrorBody> {
        self.listings.clone().try_acquire_owned().map_err(|_| {
            let message = format!("{LISTINGS} lists of connections are under way, no more at a time");
            ErrorBody::new(ErrorKind::Unavailable, message)
        })
    }

    /// Answers with lines as they are found, on a thread of their own.
    pub(super) fn stream(
        &self,
        list: impl FnOnce(&dyn Plane, &mut Lines) -> Result<(), String> + Send + 'static,
    ) -> Result<Response, ErrorBody> {
        let place = self.place()?;
        let (pieces, answer) = lines::answer();
        let plane = self.plane.clone();
        tokio::task::spawn_blocking(move || {
            let _place = place;
            let mut lines = Lines::new(pieces);
            let done = list(&*plane, &mut lines);
            lines.end(done);
        });
        Ok(answer)
    }

    /// Asks the workers, on a thread of its own.
    pub(super) async fn ask_workers<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn Plane) -> Result<T, String> + Send + 'static,
    ) -> Result<T, ErrorBody> {
        let (place, plane) = (self.place()?, self.plane.clone());
        let asked = tokio::task::spawn_blocking(move || {
            let _place = place;
            ask(&*plane)
        });
        let unavailable = |why: String| ErrorBody::new(ErrorKind::Unavailable, why);
        asked.await.map_err(|error| unavailable(error.to_string()))?.map_err(unavailable)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exist {
    #[serde(default)]
    exist: bool,
}

/// Does lines of `ipset`, in their order, up to the first that cannot be done.
#[utoipa::path(post, path = "/v1/sets", params(
    ("exist" = Option<bool>, Query, description = "what is there already, or is gone already, is no error")
), request_body(content = String, content_type = "text/plain"), responses(
    (status = 200, description = "done, or done up to `failed`", body = SetsReply),
    (status = 400, description = "no text; nothing was done", body = ErrorBody),
    (status = 413, description = "longer than 16 MiB, or more than 100,000 lines", body = ErrorBody),
))]
pub(super) async fn set_lines(
    State(api): State<Api>,
    exist: Asked<Exist>,
    request: Request,
) -> Result<Json<SetsReply>, ErrorBody> {
    let Exist { exist } = read_query(exist)?;
    let text = String::from_utf8(read_body(request).await?);
    let text = text.map_err(|error| bad_request(format!("body: {error}")))?;
    if text.lines().count() > MAX_COMMANDS {
        return Err(ErrorBody::new(ErrorKind::TooLarge, format!("more than {MAX_COMMANDS} lines at a time")));
    }
    Ok(Json(api.control.change(move |control| control.set_lines(&text, exist)).await?))
}

/// The IP sets, without what is in them.
#[utoipa::path(get, path = "/v1/sets", responses((status = 200, body = [SetView])))]
pub(super) async fn sets(State(api): State<Api>) -> Result<Json<Vec<SetView>>, ErrorBody> {
    Ok(Json(api.control.ask(|control| control.set_views()).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListSets {
    name: Option<String>,
    #[serde(default)]
    format: Format,
    #[serde(default)]
    terse: bool,
    #[serde(default)]
    sorted: bool,
}

/// IP sets with what is in them, as `ipset list` prints them.
#[utoipa::path(get, path = "/v1/sets/list", params(
    ("name" = Option<String>, Query, description = "this set alone"),
    ("format" = Option<Format>, Query, description = "plain, save, xml or names"),
    ("terse" = Option<bool>, Query, description = "without the elements"),
    ("sorted" = Option<bool>, Query, description = "elements by address"),
), responses(
    (status = 200, content_type = "text/plain", body = String),
    (status = 400, description = "no such parameter", body = ErrorBody),
    (status = 404, description = "no such set", body = ErrorBody),
))]
pub(super) async fn list_sets(State(api): State<Api>, asked: Asked<ListSets>) -> Result<String, ErrorBody> {
    let ListSets { name, format, terse, sorted } = read_query(asked)?;
    let listing = api.control.ask(move |control| control.set_listing(name.as_deref())).await?;
    let listing = listing.map_err(|refusal| ErrorBody::new(ErrorKind::NotFound, refusal.message))?;
    let text = tokio::task::spawn_blocking(move || listing.text(format, terse, sorted, sets::now())).await;
    text.map_err(|error| ErrorBody::new(ErrorKind::Internal, error.to_string()))
}

/// What systems' SYNs look like, in the order in which that was loaded.
#[utoipa::path(get, path = "/v1/fingerprints", responses((status = 200, body = [FingerprintView])))]
pub(super) async fn fingerprints(State(api): State<Api>) -> Result<Json<Vec<FingerprintView>>, ErrorBody> {
    Ok(Json(api.control.ask(|control| control.fingerprint_views()).await?))
}

/// The daemon as it is.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status)))]
pub(super) async fn status(State(api): State<Api>) -> Result<Json<Status>, ErrorBody> {
    Ok(Json(api.control.ask(|control| control.status()).await?))
}

/// The ports and what went through them.
#[utoipa::path(get, path = "/v1/ports", responses((status = 200, body = [PortView])))]
pub(super) async fn ports(State(api): State<Api>) -> Result<Json<Vec<PortView>>, ErrorBody> {
    Ok(Json(api.control.ask(|control| control.port_views()).await?))
}

/// The workers.
#[utoipa::path(get, path = "/v1/workers", responses((status = 200, body = [WorkerView])))]
pub(super) async fn workers(State(api): State<Api>) -> Result<Json<Vec<WorkerView>>, ErrorBody> {
    Ok(Json(api.control.ask(|control| control.worker_views()).await?))
}

/// Packets that were not sent, by reason and hook.
#[utoipa::path(get, path = "/v1/drops", responses((status = 200, body = [DropView])))]
pub(super) async fn drops(State(api): State<Api>) -> Result<Json<Vec<DropView>>, ErrorBody> {
    Ok(Json(api.control.ask(|control| control.drop_views()).await?))
}

/// Changes rules, all at one moment.
#[utoipa::path(post, path = "/v1/rules", request_body = RuleBatch, responses(
    (status = 200, description = "done, or not: see `failed`", body = RuleReply),
    (status = 400, description = "no change of rules; nothing was done", body = ErrorBody),
    (status = 413, description = "longer than 16 MiB, or more than 100,000 commands", body = ErrorBody),
))]
pub(super) async fn change_rules(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<RuleReply>, ErrorBody> {
    let batch: RuleBatch = read_json(request).await?;
    let commands: usize = batch.tables.iter().map(|change| change.commands.len()).sum();
    no_more_than(MAX_COMMANDS, commands)?;
    let failed = api.control.change(move |control| control.change_rules(&batch)).await?.err();
    Ok(Json(RuleReply { failed }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichRules {
    family: RuleFamily,
    table: Option<String>,
}

/// Rules with what they matched.
#[utoipa::path(get, path = "/v1/rules", params(
    ("family" = String, Query, description = "ipv4 or ipv6"),
    ("table" = Option<String>, Query, description = "only this one: raw, mangle, nat, filter or security")
), responses(
    (status = 200, body = RulesReply),
    (status = 400, description = "no such family", body = ErrorBody),
    (status = 404, description = "no such table", body = ErrorBody),
))]
pub(super) async fn rules(
    State(api): State<Api>,
    which: Asked<WhichRules>,
) -> Result<Json<RulesReply>, ErrorBody> {
    let which = read_query(which)?;
    let table = which.table.map(|name| {
        Table::named(&name).ok_or_else(|| {
            let message = format!("table {name:?}: expected raw, mangle, nat, filter or security");
            ErrorBody::new(ErrorKind::NotFound, message)
        })
    });
    let table = table.transpose()?;
    let tables = api.control.ask(move |control| control.rules(which.family, table)).await?;
    Ok(Json(RulesReply { tables }))
}

/// Finds out what would become of a packet; nothing changes by it.
#[utoipa::path(post, path = "/v1/explain", request_body = Probe, responses(
    (status = 200, body = Explanation),
    (status = 400, description = "no such packet: the message says what can be", body = ErrorBody),
    (status = 503, description = "too many lists at a time, or a worker does not answer", body = ErrorBody),
))]
pub(super) async fn explain_packet(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<Explanation>, ErrorBody> {
    let probe: Probe = read_json(request).await?;
    let (explained, tuple) = api.control.ask(move |control| control.explain(&probe)).await??;
    let Some(tuple) = tuple else { return Ok(Json(explained)) };
    let existing = api.ask_workers(move |plane| {
        let mut existing = None;
        plane.list_flows(&Sought::default(), &mut |view| {
            existing = explain::existing(&view, &tuple);
            if existing.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(existing)
    });
    Ok(Json(Explanation { existing: existing.await?, ..explained }))
}

/// This description.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "OpenAPI 3.1")))]
pub(super) async fn describe() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi::document()).into_response()
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", operation_id = "scrape", responses((status = 200, content_type = "text/plain", body = String)))]
pub(super) async fn metrics(State(api): State<Api>) -> Result<Response, ErrorBody> {
    scrape::answer(&api.control).await
}

/// The process lives.
#[utoipa::path(get, path = "/healthz", responses((status = 200, content_type = "text/plain", body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// The workers do what was asked of them.
#[utoipa::path(get, path = "/readyz", responses(
    (status = 200, content_type = "text/plain", body = String),
    (status = 503, description = "why not, one line each", content_type = "text/plain", body = String),
))]
pub(super) async fn readyz(State(api): State<Api>) -> Response {
    let asked = tokio::time::timeout(READY_TIMEOUT, api.control.ask(|control| control.problems()));
    let answer = asked.await.unwrap_or_else(|_| {
        let message = format!("the control task has not answered for {} s", READY_TIMEOUT.as_secs());
        Err(ErrorBody::new(ErrorKind::Unavailable, message))
    });
    match answer {
        Ok(problems) if problems.is_empty() => "ready\n".into_response(),
        Ok(problems) => (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n").into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.message + "\n").into_response(),
    }
}

async fn status_page(State(api): State<Api>) -> Result<Html<String>, ErrorBody> {
    Ok(Html(api.control.ask(|control| page::render(control)).await?))
}

async fn not_found(request: Request) -> ErrorBody {
    ErrorBody::new(ErrorKind::NotFound, format!("{}: there is no such path", request.uri().path()))
}

async fn method_not_allowed(request: Request) -> Result<Infallible, ErrorBody> {
    let message = format!("{}: {} is not possible here", request.uri().path(), request.method());
    Err(ErrorBody::new(ErrorKind::MethodNotAllowed, message))
}
