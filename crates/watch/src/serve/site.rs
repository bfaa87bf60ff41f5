//! What is answered: metrics, the page, its data. GET and HEAD alone; nothing can be changed here.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Response, StatusCode};
use tokio::sync::watch;

use super::body::Pieces;
use super::chain::Chain;
use super::guard::Table;
use super::keep::{Keeper, Look, Said};
use super::picture::{Card, Picture};
use super::text::{Form, Offered, Text};
use super::{Names, Options, access, api, dcgm, names, page, smi};

const PLAIN: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";

/// No outside resource, nothing inline, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What every answer carries.
const SAFE: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// A text that is made once for each look and each word of the doctor.
type Made = (u64, u64, bool, Bytes);

pub struct Site {
    options: Options,
    keeper: Keeper,
    doctor: watch::Receiver<Option<Arc<Said>>>,
    made: RefCell<HashMap<(&'static str, Option<Form>), Made>>,
    pub table: Rc<Table>,
    codes: RefCell<HashMap<u16, u64>>,
    scrape: Cell<Duration>,
}

type Answer = Response<Pieces>;

impl Site {
    pub fn new(options: Options, keeper: Keeper, doctor: watch::Receiver<Option<Arc<Said>>>) -> Self {
        Site {
            options,
            keeper,
            doctor,
            made: RefCell::default(),
            table: Rc::default(),
            codes: RefCell::default(),
            scrape: Cell::default(),
        }
    }

    pub fn behind_proxy(&self) -> bool {
        self.options.behind_proxy
    }

    /// `strict`: reached by loopback, where a browser could be led here by another site's name.
    pub async fn answer(&self, method: &Method, path: &str, headers: &HeaderMap, strict: bool) -> Answer {
        let mut answer = self.route(method, path, headers, strict).await;
        for (name, value) in SAFE {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let fixed = HeaderValue::from_static("no-store");
        answer.headers_mut().entry(header::CACHE_CONTROL).or_insert(fixed);
        *self.codes.borrow_mut().entry(answer.status().as_u16()).or_default() += 1;
        answer
    }

    async fn route(&self, method: &Method, path: &str, headers: &HeaderMap, strict: bool) -> Answer {
        if strict && !access::own_name(headers, &self.options.hosts) {
            let says =
                "this is not the name of this machine: thruway serve --host NAME lets it be asked by that name\n";
            return answer(StatusCode::MISDIRECTED_REQUEST, PLAIN, [Bytes::from_static(says.as_bytes())]);
        }
        if method != Method::GET && method != Method::HEAD {
            let mut no = answer(StatusCode::METHOD_NOT_ALLOWED, PLAIN, ["GET and HEAD alone\n".into()]);
            no.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return no;
        }
        if path == "/healthz" {
            return answer(StatusCode::OK, PLAIN, ["ok\n".into()]);
        }
        if let Some(token) = &self.options.token
            && !access::allowed(headers, token)
        {
            let mut no = answer(StatusCode::UNAUTHORIZED, PLAIN, ["a token is needed\n".into()]);
            let ask = HeaderValue::from_static("Basic realm=\"thruway\", charset=\"UTF-8\"");
            no.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
            return no;
        }
        match path {
            "/metrics" => self.metrics(headers).await,
            "/" => self.html("/").await,
            "/live" => self.html("/live").await,
            "/api/v1/now" => self.now().await,
            "/api/v1/history" => {
                let text = self.keeper.with_history(api::history);
                answer(StatusCode::OK, JSON, [text.into()])
            }
            "/api/v1/findings" => {
                let chain = self.chain().map(|said| said.chain.clone()).unwrap_or_default();
                answer(StatusCode::OK, JSON, [api::findings(&chain).into()])
            }
            "/readyz" => match (self.keeper.last().is_some(), self.chain().is_some()) {
                (true, true) => answer(StatusCode::OK, PLAIN, ["ok\n".into()]),
                _ => answer(StatusCode::SERVICE_UNAVAILABLE, PLAIN, ["the first look is not over\n".into()]),
            },
            "/style.css" => asset("text/css; charset=utf-8", page::STYLE),
            "/page.js" => asset("text/javascript; charset=utf-8", page::SCRIPT),
            "/icon.svg" => asset("image/svg+xml", page::ICON),
            _ => answer(StatusCode::NOT_FOUND, PLAIN, ["/, /metrics, /api/v1/now, /healthz\n".into()]),
        }
    }

    fn chain(&self) -> Option<Arc<Said>> {
        self.doctor.borrow().clone()
    }

    /// The newest sample, or one that is no older than it may be.
    async fn look(&self, headers: Option<&HeaderMap>) -> (Option<Arc<Look>>, bool) {
        // Prometheus says how long it waits; a third of a second is kept for the rest
        let waits = headers.and_then(|headers| headers.get("x-prometheus-scrape-timeout-seconds"));
        let waits = waits.and_then(|value| value.to_str().ok()?.parse::<f64>().ok());
        let waits = waits.filter(|seconds| seconds.is_finite() && *seconds > 0.4 && *seconds < 3600.0);
        let patience = waits.map_or(self.options.patience, |seconds| Duration::from_secs_f64(seconds - 0.3));
        self.keeper.now(self.options.fresh, patience.min(self.options.patience)).await
    }

    async fn metrics(&self, headers: &HeaderMap) -> Answer {
        let began = Instant::now();
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let form = Form::accepted(accept);
        let (look, current) = self.look(Some(headers)).await;
        let said = self.chain();
        let up = current && look.as_ref().is_some_and(|look| look.up);
        let body = match &look {
            Some(look) => self.made(("/metrics", Some(form)), look, said.as_deref(), up, |picture| {
                let mut text = Text::new(form, self.options.most);
                families(&mut text, picture, &self.options);
                text.into_text()
            }),
            None => Bytes::new(),
        };
        let mut tail = Text::new(form, self.options.most);
        self.own(&mut tail, look.as_deref(), said.as_deref(), up);
        let end = if form == Form::Open { "# EOF\n" } else { "" };
        self.scrape.set(began.elapsed());
        answer(StatusCode::OK, form.content_type(), [body, (tail.into_text() + end).into()])
    }

    /// What changes from scrape to scrape: this program's own numbers.
    #[allow(clippy::cast_precision_loss, reason = "counts of requests")]
    fn own(&self, text: &mut Text, look: Option<&Look>, said: Option<&Said>, up: bool) {
        if !self.options.names.contains(&Names::Thruway) {
            return;
        }
        text.gauge("thruway_up", "1: the driver answered at the newest look, or there is none", |series| {
            series.put(&[], f64::from(u8::from(up)));
        });
        text.gauge("thruway_sample_age_seconds", "How old the values are", |series| {
            series.some(&[], look.map(|look| look.ended.elapsed().as_secs_f64()));
        });
        text.gauge("thruway_look_duration_seconds", "How long the newest look at all cards took", |series| {
            series.some(&[], look.map(|look| look.took.as_secs_f64()));
        });
        text.counter("thruway_looks_total", "Looks at all cards", |series| {
            series.some(&[], look.map(|look| look.number as f64));
        });
        text.counter("thruway_looks_failed_total", "Looks at which the driver could not be asked", |series| {
            series.put(&[], self.keeper.failed() as f64);
        });
        text.gauge("thruway_doctor_age_seconds", "How old the doctor's findings are", |series| {
            series.some(&[], said.map(|said| said.ended.elapsed().as_secs_f64()));
        });
        text.gauge("thruway_doctor_duration_seconds", "How long the doctor looked", |series| {
            series.some(&[], said.map(|said| said.took.as_secs_f64()));
        });
        text.gauge("thruway_scrape_duration_seconds", "How long the scrape before this one took here", |series| {
            series.put(&[], self.scrape.get().as_secs_f64());
        });
        text.counter("thruway_http_requests_total", "Requests answered, by status", |series| {
            let codes = self.codes.borrow();
            let mut codes: Vec<_> = codes.iter().collect();
            codes.sort_unstable();
            for (code, count) in codes {
                series.put(&[("code", &code.to_string())], *count as f64);
            }
        });
        text.gauge("thruway_http_connections", "Connections that are open", |series| {
            series.put(&[], self.table.len() as f64);
        });
        text.counter(
            "thruway_http_connections_dropped_total",
            "Connections that took too long or made room",
            |series| {
                series.put(&[], self.table.dropped.get() as f64);
            },
        );
    }

    async fn html(&self, what: &'static str) -> Answer {
        // a page shows what is there at once and does not wait for a driver
        let patience = if self.keeper.last().is_some() { Duration::from_millis(300) } else { self.options.patience };
        let (look, current) = self.keeper.now(self.options.fresh, patience).await;
        let said = self.chain();
        let Some(look) = look else {
            return answer(StatusCode::OK, HTML, [page::waiting(what == "/").into()]);
        };
        // a look that is only slow is no driver that hangs
        let lately = look.ended.elapsed() <= self.options.fresh + self.options.patience;
        let up = (current || lately) && look.up;
        let body = self.made((what, None), &look, said.as_deref(), up, |picture| {
            let looked = said.is_some();
            self.keeper.with_history(|history| page::write(picture, history, looked, what == "/"))
        });
        answer(StatusCode::OK, HTML, [body])
    }

    async fn now(&self) -> Answer {
        let (look, current) = self.look(None).await;
        let said = self.chain();
        let body =
            look.as_ref().map(|look| self.made(("now", None), look, said.as_deref(), current && look.up, api::now));
        match body {
            Some(body) => answer(StatusCode::OK, JSON, [body]),
            None => {
                answer(StatusCode::SERVICE_UNAVAILABLE, JSON, ["{\"error\":\"the first look is not over\"}".into()])
            }
        }
    }

    /// A text of this look, made once.
    fn made(
        &self,
        key: (&'static str, Option<Form>),
        look: &Look,
        said: Option<&Said>,
        up: bool,
        make: impl FnOnce(&Picture<'_>) -> String,
    ) -> Bytes {
        let of = (look.number, said.map_or(0, |said| said.number), up);
        if let Some((looked, told, was, text)) = self.made.borrow().get(&key)
            && (*looked, *told, *was) == of
        {
            return text.clone();
        }
        let nothing = Chain::default();
        let picture = Picture {
            sample: &look.sample,
            cards: look.sample.cards.iter().map(Card::new).collect(),
            chain: said.map_or(&nothing, |said| &said.chain),
            xids: &look.xids,
            host: &self.options.host,
            up,
            time: look.time,
            took: look.took.as_secs_f64(),
            failed: self.keeper.failed(),
        };
        let text = Bytes::from(make(&picture));
        self.made.borrow_mut().insert(key, (of.0, of.1, of.2, text.clone()));
        text
    }
}

/// Everything under the names that are asked for, and what was too much.
pub fn families(text: &mut Text, picture: &Picture<'_>, options: &Options) {
    for names in &options.names {
        match names {
            Names::Thruway => names::write(text, picture),
            Names::Dcgm => dcgm::write(text, picture, options.dcgm_host.label()),
            Names::NvidiaGpuExporter => smi::write(text, picture),
        }
    }
    let dropped = text.dropped().to_vec();
    text.lift();
    if options.names.contains(&Names::Thruway) {
        text.gauge(
            "thruway_series_dropped",
            "Series that were too many for their family and are not shown",
            |series| {
                for (family, count) in &dropped {
                    series.put(&[("family", family)], f64::from(u32::try_from(*count).unwrap_or(u32::MAX)));
                }
            },
        );
    }
}

/// Every family that thruway's own names have, for the manual.
pub fn catalogue(options: Options) -> std::io::Result<Vec<Offered>> {
    let keeper = Keeper::begin(super::simulated::gt1030, Duration::from_secs(3600))?;
    let (_, doctor) = watch::channel(None);
    let site = Site::new(options, keeper, doctor);
    let (sample, nothing) = (super::simulated::gt1030(), Chain::default());
    let picture = Picture {
        sample: &sample,
        cards: sample.cards.iter().map(Card::new).collect(),
        chain: &nothing,
        xids: &[],
        host: "",
        up: true,
        time: 0.0,
        took: 0.0,
        failed: 0,
    };
    let mut text = Text::new(Form::Prometheus, usize::MAX);
    families(&mut text, &picture, &site.options);
    site.own(&mut text, None, None, true);
    Ok(text.offered().to_vec())
}

fn answer<const N: usize>(status: StatusCode, kind: &'static str, pieces: [Bytes; N]) -> Answer {
    let mut answer = Response::new(Pieces::new(pieces));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn asset(kind: &'static str, text: &'static str) -> Answer {
    let mut answer = answer(StatusCode::OK, kind, [Bytes::from_static(text.as_bytes())]);
    // its name carries the version
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=86400"));
    answer
}
