//! The routes of the router, and the checks before each.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use rmcp::transport::streamable_http_server::session::SessionManager;

use super::access::seal;
use super::console::Console;
use super::drain::drain;
use super::one_session::one_session;
use super::overview::overview;
use super::refusal::Refusal;
use super::selection::{selection, terminate};
use super::sessions::sessions;
use super::settings::settings;
use super::{assets, explanations};

/// The longest body of an action, in bytes.
const LONGEST_BODY: usize = 64 * 1_024;

/// One route.
struct Route<I: SessionManager> {
    path: &'static str,
    handler: MethodRouter<Arc<Console<I>>>,
    #[cfg_attr(not(test), expect(dead_code, reason = "compared with the documentation"))]
    method: &'static str,
    /// Whether it is a file of the page.
    is_public: bool,
}

impl<I: SessionManager> Route<I> {
    fn file(path: &'static str, handler: MethodRouter<Arc<Console<I>>>) -> Self {
        Self { path, handler, method: "GET", is_public: true }
    }

    fn get(path: &'static str, handler: MethodRouter<Arc<Console<I>>>) -> Self {
        Self { path, handler, method: "GET", is_public: false }
    }

    fn post(path: &'static str, handler: MethodRouter<Arc<Console<I>>>) -> Self {
        Self { path, handler, method: "POST", is_public: false }
    }
}

/// All routes. `docs/operator-page.md` has them in a table.
fn routes<I: SessionManager>() -> [Route<I>; 12] {
    [
        Route::file("/", get(assets::page)),
        Route::file("/style.css", get(assets::style)),
        Route::file("/script.js", get(assets::script)),
        Route::file("/icon.svg", get(assets::icon)),
        Route::get("/api/overview", get(overview)),
        Route::get("/api/sessions", get(sessions)),
        Route::get("/api/sessions/{fingerprint}", get(one_session)),
        Route::get("/api/explanations", get(explanations::explanations)),
        Route::get("/api/settings", get(settings)),
        Route::get("/api/selection", get(selection)),
        Route::post("/api/terminate", post(terminate)),
        Route::post("/api/drain", post(drain)),
    ]
}

/// Makes the router of a console. `beside`: what is asked for other paths.
pub(super) fn router<I: SessionManager>(console: Arc<Console<I>>, beside: Option<Router>) -> Router {
    let missing = || async { Refusal::new(StatusCode::NOT_FOUND, "there is no such page") };
    let mut router = Router::new().fallback_service(beside.unwrap_or_default().fallback(missing));
    let mut public = Vec::new();
    for route in routes() {
        router = router.route(route.path, route.handler);
        public.extend(route.is_public.then_some(route.path));
    }
    let public: Arc<[&'static str]> = public.into();
    let check = move |State(console): State<Arc<Console<I>>>, request: Request, next: Next| {
        let public = Arc::clone(&public);
        async move { seal(answer(&console, request, next, &public).await) }
    };
    router
        .method_not_allowed_fallback(|| async {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this page is not asked for with that method")
        })
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .layer(from_fn_with_state(Arc::clone(&console), check))
        .with_state(console)
}

async fn answer<I: SessionManager>(
    console: &Arc<Console<I>>,
    request: Request,
    next: Next,
    public: &[&'static str],
) -> Response {
    console.start_sampling();
    match console.access.check(&request, public.contains(&request.uri().path())) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;

    use super::*;

    #[test]
    fn the_documentation_lists_the_routes() {
        let documented: Vec<_> = include_str!("../../docs/operator-page.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .filter_map(|line| line.split('`').next())
            .filter(|route| route.starts_with("GET /") || route.starts_with("POST /"))
            .map(str::to_owned)
            .collect();
        let routes: Vec<_> =
            routes::<LocalSessionManager>().iter().map(|route| format!("{} {}", route.method, route.path)).collect();
        assert_eq!(documented, routes);
    }
}
