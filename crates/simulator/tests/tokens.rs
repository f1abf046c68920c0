//! Tests of tokens over real sockets: creation, expiry, deletion, and the limit of one connection for each token.

#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

mod support;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use neurobridge_simulator::{EntryOptions, MAX_PERMANENT_TOKENS, Options, TokenEnd, TokenOptions};
use serde_json::{Value, json};
use tokio::time::timeout;

use self::support::{AUTH, Running, start, within};

const TEMPORARY: &str = r#"{"permanent": false}"#;
const PERMANENT: &str = r#"{"permanent": true}"#;

async fn with_tokens(token_options: TokenOptions) -> Running {
    start(Options {
        tokens: vec!["secret".into()],
        token_options,
        rate: Some(100.0),
        ..Options::default()
    })
    .await
}

async fn post(simulator: &Running, path: &str, body: &str) -> (u16, Value) {
    let answer = simulator.request("POST", path, Some("secret"), body).await;
    (answer.status, answer.json())
}

/// Creates a temporary token and returns its id and key.
async fn create_token(simulator: &Running) -> (u64, String) {
    let (status, token) = post(simulator, "/v1/tokens/", TEMPORARY).await;
    assert_eq!(status, 201, "{token}");
    (
        token["id"].as_u64().unwrap(),
        token["key"].as_str().unwrap().to_owned(),
    )
}

fn auth(key: &str) -> String {
    AUTH.replace("secret", key)
}

#[tokio::test]
async fn created_token_is_valid_until_it_expires() {
    let simulator = with_tokens(TokenOptions {
        life: Duration::from_millis(500),
        ..TokenOptions::default()
    })
    .await;
    let (status, token) = post(&simulator, "/v1/tokens/", TEMPORARY).await;
    assert_eq!((status, &token["is_active"]), (201, &json!(true)));
    let time = |field: &str| token[field].as_str().unwrap().parse::<Timestamp>().unwrap();
    let life = time("expires").duration_since(time("created"));
    assert_eq!(life, SignedDuration::from_millis(500));

    let key = token["key"].as_str().unwrap();
    let mut client = simulator.connect().await.unwrap();
    client.send(&auth(key)).await;
    assert_eq!(client.json().await, json!({ "auth": "ok" }));
    let (events, code) = client.rest().await;
    assert!(events.len() > 5, "{}", events.len());
    assert_eq!(code, Some(1008));
    let answer = simulator.request("GET", "/v1/entries/", Some(key), "").await;
    assert_eq!(answer.status, 401);
    let mut client = simulator.connect().await.unwrap();
    client.send(&auth(key)).await;
    assert_eq!(
        client.rest().await.0,
        [json!({ "error": "invalid token" }).to_string()]
    );
    assert_eq!(simulator.handle.active_tokens(), 1);
}

#[tokio::test]
async fn expired_token_silences_its_connection() {
    let simulator = with_tokens(TokenOptions {
        life: Duration::from_millis(500),
        end: TokenEnd::Silence,
        ..TokenOptions::default()
    })
    .await;
    let (_, key) = create_token(&simulator).await;
    let mut client = simulator.connect().await.unwrap();
    client.send(&auth(&key)).await;
    client.json().await;
    let mut other = simulator.authenticated().await;
    within(async { while timeout(Duration::from_millis(300), client.next()).await.is_ok() {} }).await;
    assert_eq!(simulator.handle.active_tokens(), 1);
    assert_eq!(client.ping().await, json!({ "PING": "PONG" }));
    other.ids(20).await;
}

#[tokio::test]
async fn deleted_token_closes_its_connection() {
    let simulator = with_tokens(TokenOptions::default()).await;
    let (id, key) = create_token(&simulator).await;
    let mut client = simulator.connect().await.unwrap();
    client.send(&auth(&key)).await;
    client.json().await;
    let path = format!("/v1/tokens/{id}");
    for status in [204, 404] {
        let answer = simulator.request("DELETE", &path, Some("secret"), "").await;
        assert_eq!(answer.status, status);
    }
    assert_eq!(client.rest().await.1, Some(1008));
    let answer = simulator.request("GET", "/v1/whoami", Some(&key), "").await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn sixth_permanent_token_is_refused() {
    let simulator = with_tokens(TokenOptions::default()).await;
    // The configured token counts as a permanent token.
    for _ in 1..MAX_PERMANENT_TOKENS {
        let (status, token) = post(&simulator, "/v1/tokens/", PERMANENT).await;
        assert_eq!((status, &token["expires"]), (201, &Value::Null));
    }
    let (status, error) = post(&simulator, "/v1/tokens/", PERMANENT).await;
    assert_eq!((status, &error["error_codes"]), (400, &json!([605])));
    assert_eq!(post(&simulator, "/v1/tokens/", TEMPORARY).await.0, 201);
    assert_eq!(post(&simulator, "/v1/spaces/2/tokens", PERMANENT).await.0, 201);
}

#[tokio::test]
async fn space_token_belongs_to_its_space() {
    let simulator = with_tokens(TokenOptions::default()).await;
    let (status, token) = post(&simulator, "/v1/spaces/4/tokens", TEMPORARY).await;
    assert_eq!(status, 201);
    let key = token["key"].as_str().unwrap();
    let answer = simulator.request("GET", "/v1/whoami", Some(key), "").await;
    assert_eq!(answer.json()["space"], json!({ "id": 4, "name": "Warehouse" }));
    let other = simulator
        .request("POST", "/v1/spaces/5/tokens", Some(key), TEMPORARY)
        .await;
    assert_eq!(other.status, 403);
    assert_eq!(post(&simulator, "/v1/spaces/3/tokens", TEMPORARY).await.0, 404);
    let account = simulator.request("GET", "/v1/whoami/", Some("secret"), "").await;
    assert_eq!(account.json()["space"], Value::Null);
}

#[tokio::test]
async fn invalid_requests_for_tokens_are_refused() {
    let simulator = with_tokens(TokenOptions::default()).await;
    let (status, error) = post(&simulator, "/v1/tokens/", r#"{"permanent": "no"}"#).await;
    assert_eq!(status, 400);
    assert_eq!(error["fields"][0]["name"], "permanent");
    assert_eq!(error["fields"][0]["error_code"], 400);
    assert_eq!(post(&simulator, "/v1/tokens/", "permanent").await.0, 400);
    let answer = simulator.request("POST", "/v1/tokens/", None, TEMPORARY).await;
    assert_eq!(answer.status, 401);
    simulator
        .handle
        .add_fault("rest-http=403,path=/v1/tokens".parse().unwrap());
    assert_eq!(post(&simulator, "/v1/tokens/", TEMPORARY).await.0, 403);
    assert_eq!(simulator.get("/v1/entries/").await.status, 200);
    assert_eq!(simulator.handle.active_tokens(), 1);
}

#[tokio::test]
async fn second_connection_of_a_token_replaces_the_first() {
    let simulator = with_tokens(TokenOptions {
        one_connection: true,
        ..TokenOptions::default()
    })
    .await;
    let (_, key) = create_token(&simulator).await;
    let mut first = simulator.authenticated().await;
    let mut other = simulator.connect().await.unwrap();
    other.send(&auth(&key)).await;
    assert_eq!(other.json().await, json!({ "auth": "ok" }));
    first.ids(5).await;
    let mut second = simulator.authenticated().await;
    assert_eq!(first.rest().await.1, Some(4000));
    second.ids(5).await;
    other.ids(5).await;
}

#[tokio::test]
async fn clock_offset_moves_the_times_of_tokens() {
    let simulator = start(Options {
        entries: EntryOptions {
            clock_offset: SignedDuration::from_hours(-1),
            ..EntryOptions::default()
        },
        ..Options::default()
    })
    .await;
    let (_, token) = post(&simulator, "/v1/tokens/", TEMPORARY).await;
    let created: Timestamp = token["created"].as_str().unwrap().parse().unwrap();
    let ago = Timestamp::now().duration_since(created).as_mins();
    assert!((59..=61).contains(&ago), "{ago}");
    assert_eq!(simulator.handle.active_tokens(), 1);
}
