//! docs/operator-page.md, Which clients may use it.
//!
//! Which requests the operator's page answers.

use std::net::SocketAddr;

use axum::Router;
use axum::http::Version;
use axum::routing::get;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::PolicySessionManager;
use rmcp_session_policy::admin::AdminRouterBuilder;
use serde_json::json;

use crate::operator::{Answer, action, ask, request, request_from};

const TOKEN: &str = "0123456789abcdef";

const ROUTES: [&str; 10] = [
    "/",
    "/style.css",
    "/script.js",
    "/icon.svg",
    "/api/overview",
    "/api/sessions",
    "/api/sessions/01234567",
    "/api/explanations",
    "/api/settings",
    "/metrics",
];

fn built(
    set: impl FnOnce(AdminRouterBuilder<LocalSessionManager>) -> AdminRouterBuilder<LocalSessionManager>,
) -> Router {
    let sessions = PolicySessionManager::local().build().expect("valid");
    let metrics = Router::new().route("/metrics", get(|| async { "sessions 0" }));
    set(sessions.admin().beside(metrics)).build().expect("valid")
}

/// Asks for a path with headers. An empty value takes a header away.
async fn with(page: &Router, path: &str, headers: &[(&'static str, &str)]) -> Answer {
    let mut request = request("GET", path);
    for (name, value) in headers {
        request.headers_mut().remove(*name);
        if !value.is_empty() {
            request.headers_mut().append(*name, value.parse().expect("a header"));
        }
    }
    ask(page, request).await
}

#[tokio::test]
async fn only_clients_of_this_machine_are_answered() {
    let page = built(|page| page);
    for path in ROUTES {
        for near in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(ask(&page, request_from(near, "GET", path)).await.status, 200, "{near} {path}");
        }
        for far in ["10.0.0.1:1", "[2001:db8::1]:1", "[::ffff:10.0.0.1]:1", "0.0.0.0:1"] {
            assert_eq!(ask(&page, request_from(far, "GET", path)).await.status, 403, "{far} {path}");
        }
        let mut unknown = request("GET", path);
        unknown.extensions_mut().clear();
        assert_eq!(ask(&page, unknown).await.status, 403, "without ConnectInfo nothing tells where a client is");
        for header in ["x-forwarded-for", "x-forwarded-proto", "x-real-ip", "forwarded", "via"] {
            assert_eq!(with(&page, path, &[(header, "for=10.0.0.1")]).await.status, 403, "a proxy on this machine");
        }
        let mut silent = request("GET", path);
        *silent.version_mut() = Version::HTTP_10;
        assert_eq!(ask(&page, silent).await.status, 403, "a proxy that adds nothing, by its version");
    }
}

#[tokio::test]
async fn a_token_is_asked_of_every_client_for_all_but_the_files_of_the_page() {
    let page = built(|page| page.token(TOKEN).actions(true));
    for path in ROUTES {
        let public = !path.starts_with("/api") && path != "/metrics";
        for (given, good) in [
            ("", public),
            ("Bearer 0123456789abcdeg", public),
            ("Bearer 0123456789abcde", public),
            ("Bearer ", public),
            ("Basic 0123456789abcdef", public),
            (TOKEN, public),
            ("Bearer 0123456789abcdef", true),
            ("bearer 0123456789abcdef", true),
        ] {
            for peer in ["127.0.0.1:1", "10.0.0.1:1"] {
                let mut request = request_from(peer, "GET", path);
                if !given.is_empty() {
                    request.headers_mut().insert("authorization", given.parse().expect("a header"));
                }
                let answer = ask(&page, request).await;
                assert_eq!(answer.status, if good { 200 } else { 401 }, "{peer} {path} {given}");
                assert!(!answer.text().contains(TOKEN));
                assert_eq!(answer.headers.contains_key("www-authenticate"), !good);
            }
        }
    }
    assert_eq!(ask(&page, action("/api/drain", &json!({"deadline_seconds": 1}))).await.status, 401);
}

#[tokio::test]
async fn what_is_authorized_outside_is_answered_anywhere() {
    let page = built(|page| page.authorized_outside());
    let mut request = request_from("10.0.0.1:1", "GET", "/api/overview");
    request.headers_mut().insert("x-forwarded-for", "192.0.2.1".parse().expect("a header"));
    assert_eq!(ask(&page, request).await.status, 200);
    assert_eq!(with(&page, "/api/overview", &[("host", "evil.example")]).await.status, 421);
    assert_eq!(with(&page, "/api/overview", &[("origin", "http://evil.example")]).await.status, 403);
}

#[tokio::test]
async fn a_foreign_host_is_misdirected() {
    let page = built(|page| page.hosts(["admin.example.com"]));
    for path in ROUTES {
        for host in ["localhost:9000", "[::1]", "admin.example.com", "ADMIN.example.com:443"] {
            assert_eq!(with(&page, path, &[("host", host)]).await.status, 200, "{host} {path}");
        }
        for host in
            ["", "evil.example", "evil.example:9000", "localhost.evil.example", "admin.example.com.evil.example"]
        {
            let answer = with(&page, path, &[("host", host)]).await;
            assert_eq!(answer.status, 421, "{host} {path}");
            assert!(!answer.text().contains("evil"), "nothing of the request is in the answer");
        }
    }
    let mut two = request("GET", "/api/overview");
    two.headers_mut().append("host", "evil.example".parse().expect("a header"));
    assert_eq!(ask(&page, two).await.status, 421);
    // As over HTTP/2, or in absolute form.
    let mut named = request("GET", "http://evil.example/api/overview");
    assert_eq!(ask(&page, named).await.status, 421);
    named = request("GET", "http://localhost:9000/api/overview");
    named.headers_mut().remove("host");
    named.headers_mut().insert("origin", "http://localhost:9000".parse().expect("a header"));
    assert_eq!(ask(&page, named).await.status, 200);
}

#[tokio::test]
async fn a_foreign_origin_is_forbidden() {
    let page = built(|page| page);
    for path in ROUTES {
        assert_eq!(with(&page, path, &[("origin", "http://127.0.0.1:9000")]).await.status, 200, "{path}");
        for origin in
            ["null", "http://evil.example", "http://127.0.0.1:9001", "http://localhost:9000", "ftp://127.0.0.1:9000"]
        {
            assert_eq!(with(&page, path, &[("origin", origin)]).await.status, 403, "{origin} {path}");
        }
    }
    for (site, api) in [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)] {
        assert_eq!(with(&page, "/api/overview", &[("sec-fetch-site", site)]).await.status, api, "{site}");
        assert_eq!(with(&page, "/", &[("sec-fetch-site", site)]).await.status, 200, "a link may lead to the page");
    }
}

#[tokio::test]
async fn another_site_cannot_act() {
    let sessions = PolicySessionManager::local().build().expect("valid");
    let page = sessions.admin().actions(true).build().expect("valid");
    let body = json!({"deadline_seconds": 1});
    // What a form can send.
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        let mut form = action("/api/drain", &body);
        form.headers_mut().remove("x-admin-action");
        form.headers_mut().insert("content-type", kind.parse().expect("a header"));
        assert_eq!(ask(&page, form).await.status, 403, "{kind}");
        let mut other = action("/api/drain", &body);
        other.headers_mut().insert("content-type", kind.parse().expect("a header"));
        assert_eq!(ask(&page, other).await.status, 415, "{kind}");
    }
    for (name, value) in [("origin", "http://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        let mut crossing = action("/api/drain", &body);
        crossing.headers_mut().insert(name, value.parse().expect("a header"));
        assert_eq!(ask(&page, crossing).await.status, 403, "{name} {value}");
    }
    for (method, path) in [("GET", "/api/drain"), ("GET", "/api/terminate?session=0")] {
        assert_eq!(ask(&page, request(method, path)).await.status, 405, "{method} {path}");
    }
    let mut preflight = request("OPTIONS", "/api/drain");
    preflight.headers_mut().insert("origin", "http://evil.example".parse().expect("a header"));
    let preflight = ask(&page, preflight).await;
    assert!(
        preflight.status == 403 && preflight.headers.keys().all(|name| !name.as_str().starts_with("access-control"))
    );
    assert!(!sessions.is_draining());
    assert_eq!(ask(&page, action("/api/drain", &body)).await.status, 202);
}

#[tokio::test]
async fn a_page_without_actions_only_shows() {
    let sessions = PolicySessionManager::local().build().expect("valid");
    let page = sessions.admin().build().expect("valid");
    for (path, body) in
        [("/api/drain", json!({"deadline_seconds": 1})), ("/api/terminate", json!({"session": "0-01234567"}))]
    {
        let answer = ask(&page, action(path, &body)).await;
        assert_eq!(answer.status, 403);
        assert!(answer.text().contains("read-only"));
    }
    assert!(!sessions.is_draining());
    assert_eq!(crate::operator::read(&page, "/api/overview").await["actions"], false);
}

#[tokio::test]
async fn each_answer_forbids_browsers_what_the_page_does_not_do() {
    let page = built(|page| page.token(TOKEN));
    let mut answers = Vec::new();
    for path in ROUTES.into_iter().chain(["/nothing", "/api/nothing"]) {
        answers.push(with(&page, path, &[("authorization", "Bearer 0123456789abcdef")]).await);
        answers.push(with(&page, path, &[]).await);
        answers.push(with(&page, path, &[("host", "evil.example")]).await);
        answers.push(with(&page, path, &[("origin", "http://evil.example")]).await);
    }
    answers.push(ask(&page, action("/api/drain", &json!({}))).await);
    for answer in answers {
        let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; ") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'), "{policy}");
        let others = ["x-content-type-options", "referrer-policy", "cache-control", "x-frame-options"].map(header);
        assert_eq!(others, ["nosniff", "no-referrer", "no-store", "DENY"]);
    }
}

#[tokio::test]
async fn the_page_is_made_of_its_own_files_alone() {
    let page = built(|page| page);
    let html = ask(&page, request("GET", "/")).await;
    assert_eq!(html.headers["content-type"], "text/html; charset=utf-8");
    let html = html.text();
    assert!(
        !html.contains("<script>") && !html.contains("<style") && !html.contains(" style=") && !html.contains(" on")
    );
    let mut all = html.clone();
    for (link, kind) in [("style.css", "text/css"), ("script.js", "text/javascript"), ("icon.svg", "image/svg+xml")] {
        assert!(html.contains(&format!("=\"{link}\"")));
        let file = ask(&page, request("GET", &format!("/{link}"))).await;
        assert!(file.headers["content-type"].to_str().expect("text").starts_with(kind));
        all += &file.text();
    }
    // What names the language of drawings is no address that is asked.
    let all = all.replace("http://www.w3.org/2000/svg", "");
    assert!(!all.contains("http:") && !all.contains("https:") && !all.contains("url(") && !all.contains("@import"));
    assert!(!all.contains("innerHTML") && !all.contains("eval(") && !all.contains("document.write"));
    assert!(all.len() < 64 * 1024, "{} bytes", all.len());
}

#[tokio::test]
async fn a_nested_page_links_to_its_own_files() {
    let app = Router::new().nest("/ops/admin", built(|page| page));
    let page = ask(&app, request("GET", "/ops/admin")).await.text();
    assert!(page.contains("href=\"admin/style.css\"") && page.contains("src=\"admin/script.js\""));
    for path in ["/ops/admin/style.css", "/ops/admin/script.js", "/ops/admin/api/overview", "/ops/admin/metrics"] {
        assert_eq!(ask(&app, request("GET", path)).await.status, 200, "{path}");
    }
    let slash = Router::new().nest("/ops/admin/", built(|page| page));
    let page = ask(&slash, request("GET", "/ops/admin/")).await.text();
    assert!(page.contains("href=\"style.css\"") && page.contains("src=\"script.js\""));
    assert_eq!(ask(&slash, request("GET", "/ops/admin/style.css")).await.status, 200);
    assert_eq!(with(&app, "/ops/admin/api/overview", &[("host", "evil.example")]).await.status, 421);
}

#[tokio::test]
async fn it_is_served_over_sockets() {
    let page = built(|page| page);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let app = page.into_make_service_with_connect_info::<SocketAddr>();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let asked = |path: &str| reqwest::Client::new().get(format!("{url}{path}"));
    assert_eq!(asked("/").send().await.expect("answers").status(), 200);
    assert_eq!(asked("/api/overview").send().await.expect("answers").status(), 200);
    let rebound = asked("/api/overview").header("host", "evil.example").send().await.expect("answers");
    assert_eq!(rebound.status(), 421);
    server.abort();
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let sessions = PolicySessionManager::local().build().expect("valid");
    let wrong = |page: AdminRouterBuilder<LocalSessionManager>| {
        assert!(!format!("{page:?}").contains("secret"));
        let error = page.build().expect_err("makes no sense");
        assert!(!error.to_string().contains("secret"), "{error}");
        error.to_string()
    };
    assert_eq!(
        wrong(sessions.admin().token("secret")),
        "token is 6 bytes long: use at least 16 random characters, as the output of `openssl rand -hex 16`"
    );
    assert!(
        wrong(sessions.admin().token("secret with spaces and more"))
            .starts_with("token is not sendable: use printable")
    );
    assert!(
        wrong(sessions.admin().token(TOKEN).authorized_outside()).starts_with("authorized_outside is true: set either")
    );
    assert!(
        wrong(sessions.admin().hosts(["http://a.example"])).starts_with("hosts is \"http://a.example\": write a host")
    );
}
