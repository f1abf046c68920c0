//! The NATS sink with users, tokens, nkeys, credentials files, TLS, client certificates and permissions.

use std::{fs, path::Path};

use data_encoding::BASE64URL_NOPAD;
use neurobridge_core::{secret::Secret, sink::FaultKind, tls::TlsFiles};
use neurobridge_sink_nats::{AuthConfig, Mode, NatsConfig};
use neurobridge_tests::{
    certificates::Certificates,
    nats::{Nats, NatsOptions},
    paths::Scratch,
    shared::own_nats,
};
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::support::{Delivery, Feed, assert_once_and_in_order, blocking, connect, creating, stored};

const STREAM: &str = "ENTRIES";

pub(crate) fn password(user: &str, password: &str) -> AuthConfig {
    AuthConfig {
        user: Some(user.into()),
        password: Some(Secret::new(password)),
        ..AuthConfig::default()
    }
}

fn with(nats: &Nats, auth: AuthConfig) -> NatsConfig {
    let mut config = creating(&nats.url(), STREAM);
    config.auth = Some(auth);
    config
}

/// Checks that one connection is accepted, and that the other is refused with a clear reason.
async fn assert_only_first_accepted(right: NatsConfig, wrong: NatsConfig) {
    connect(right).await.unwrap();
    let fault = connect(wrong).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Unauthorised, "{fault}");
    assert!(!fault.is_final && fault.reason.contains("auth"), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn user_and_password_authenticate() {
    let Some(nats) = own_nats(NatsOptions::default().config("authorization { user: u, password: secret }"))
    else {
        return;
    };
    let dir = Scratch::new("nats-password").unwrap();
    fs::write(dir.join("password"), "secret\n").unwrap();
    let from_file = AuthConfig {
        user: Some("u".into()),
        password_file: Some(dir.join("password")),
        ..AuthConfig::default()
    };
    assert_only_first_accepted(
        with(&nats, password("u", "secret")),
        with(&nats, password("u", "wrong")),
    )
    .await;
    assert_only_first_accepted(with(&nats, from_file), creating(&nats.url(), STREAM)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_token_file_is_read_on_reconnect() {
    let Some(mut nats) = own_nats(NatsOptions::default().config("authorization { token: first }")) else {
        return;
    };
    let dir = Scratch::new("nats-token").unwrap();
    let file = dir.join("token");
    fs::write(&file, "first\n").unwrap();
    let auth = AuthConfig {
        token_file: Some(file.clone()),
        ..AuthConfig::default()
    };
    let mut feed = Feed::new();
    let delivery = Delivery::start(&feed, with(&nats, auth));
    feed.append_many(100).await;
    delivery.until_settled(100).await;
    blocking(|| nats.reconfigure("authorization { token: second }").unwrap());
    // The server closes the connections of users whose credentials have changed.
    let down = delivery.until_down("check auth").await;
    assert_eq!(down.cursor.counts.settled(), 100);
    feed.append_many(100).await;
    fs::write(&file, "second\n").unwrap();
    delivery.finish(&feed).await;
    blocking(|| nats.reconfigure("").unwrap());
    assert_once_and_in_order(&stored(&nats.url(), STREAM).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nkey_authenticates() {
    let key = KeyPair::new_user();
    let options = NatsOptions::default().config(&format!(
        "authorization {{ users: [ {{ nkey: {} }} ] }}",
        key.public_key()
    ));
    let Some(nats) = own_nats(options) else { return };
    let dir = Scratch::new("nats-nkey").unwrap();
    fs::write(dir.join("seed"), key.seed().unwrap()).unwrap();
    let right = AuthConfig {
        nkey_file: Some(dir.join("seed")),
        ..AuthConfig::default()
    };
    let wrong = AuthConfig {
        nkey: Some(Secret::new(KeyPair::new_user().seed().unwrap())),
        ..AuthConfig::default()
    };
    assert_only_first_accepted(with(&nats, right), with(&nats, wrong)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_credentials_file_is_used_after_expiry() {
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let account_claims = json!({ "type": "account", "version": 2, "limits": {
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1 } });
    let operator_jwt = jwt(
        &operator,
        &operator,
        &json!({ "type": "operator", "version": 2 }),
        None,
    );
    let account_jwt = jwt(&operator, &account, &account_claims, None);
    let options = super::core_mode::without_jetstream().config(&format!(
        "operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {}: {account_jwt} }}",
        account.public_key()
    ));
    let Some(nats) = own_nats(options) else { return };
    let dir = Scratch::new("nats-credentials").unwrap();
    let file = dir.join("user.creds");
    let mut config = NatsConfig::new(nats.url(), "");
    config.mode = Mode::Core;
    config.stream = None;
    config.auth = Some(AuthConfig {
        credentials_file: Some(file.clone()),
        ..AuthConfig::default()
    });

    // Credentials of another account, then a missing file.
    write_credentials(&file, &KeyPair::new_account(), None);
    let fault = connect(config.clone()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Unauthorised, "{fault}");
    fs::remove_file(&file).unwrap();
    let fault = connect(config.clone()).await.unwrap_err();
    assert!(fault.reason.contains("user.creds"), "{fault}");

    write_credentials(&file, &account, Some(3));
    let mut feed = Feed::new();
    let delivery = Delivery::start(&feed, config);
    feed.append_many(100).await;
    delivery.until_settled(100).await;
    delivery.until_down("check auth").await;
    feed.append_many(100).await;
    write_credentials(&file, &account, None);
    let ending = delivery.finish(&feed).await;
    assert_eq!(ending.cursor.counts.delivered, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_client_certificate_connects() {
    let dir = Scratch::new("nats-certificates").unwrap();
    let certificates = Certificates::generate(dir.path()).unwrap();
    let strangers = Certificates::generate(&dir.join("strangers")).unwrap();
    let tls = |more: &str| {
        NatsOptions::default().config(&format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, {more} }}",
            certificates.server_cert, certificates.server_key, certificates.ca
        ))
    };
    let config = |nats: &Nats, ca: &Path, client: Option<&Certificates>| {
        let mut config = creating(&nats.url(), STREAM);
        config.tls = Some(TlsFiles {
            ca_file: Some(ca.to_owned()),
            cert_file: client.map(|client| client.client_cert.clone()),
            key_file: client.map(|client| client.client_key.clone()),
        });
        config
    };
    let Some(nats) = own_nats(tls("")) else { return };
    connect(config(&nats, &certificates.ca, None)).await.unwrap();
    for wrong in [config(&nats, &strangers.ca, None), {
        let mut config = creating(&nats.url(), STREAM);
        config.servers = vec![nats.url().replace("nats://", "tls://")];
        config
    }] {
        let fault = connect(wrong).await.unwrap_err();
        assert!(
            fault.kind == FaultKind::Unauthorised && fault.reason.contains("certificate"),
            "{fault}"
        );
    }
    drop(nats);

    let Some(nats) = own_nats(tls("verify: true")) else {
        return;
    };
    connect(config(&nats, &certificates.ca, Some(&certificates)))
        .await
        .unwrap();
    for client in [None, Some(&strangers)] {
        let fault = connect(config(&nats, &certificates.ca, client))
            .await
            .unwrap_err();
        assert_eq!(fault.kind, FaultKind::Unauthorised, "{fault}");
    }
    drop(nats);

    // A server without TLS, and a client that requires TLS.
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    connect(config(&nats, &certificates.ca, None)).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_subject_is_named_and_loses_no_event() {
    let users = |denied: &str| {
        format!(
            "authorization {{ users: [ {{ user: admin, password: p }}, {{ user: u, password: p, permissions: {{ publish: {{ deny: [{denied}] }} }} }} ] }}"
        )
    };
    let Some(mut nats) = own_nats(NatsOptions::default().config(&users("\"neuroio.entries.>\""))) else {
        return;
    };
    let mut feed = Feed::new();
    feed.append_many(100).await;
    let delivery = Delivery::start(&feed, with(&nats, password("u", "p")));
    let down = delivery.until_down("Permissions Violation").await;
    assert!(down.reason.unwrap().contains("neuroio.entries.5.3.new"));
    assert_eq!(down.cursor.counts.settled(), 0);
    blocking(|| nats.reconfigure(&users("\"other\"")).unwrap());
    delivery.finish(&feed).await;
    blocking(|| nats.reconfigure("").unwrap());
    assert_once_and_in_order(&stored(&nats.url(), STREAM).await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_subscription_is_named() {
    let options = NatsOptions::default()
        .config("authorization { users: [ { user: u, password: p, permissions: { subscribe: { deny: \"_INBOX.>\" } } } ] }");
    let Some(nats) = own_nats(options) else { return };
    let fault = connect(with(&nats, password("u", "p"))).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Unauthorised, "{fault}");
    assert!(fault.reason.contains("_INBOX"), "{fault}");
}

fn write_credentials(file: &Path, account: &KeyPair, seconds: Option<i64>) {
    let user = KeyPair::new_user();
    let claims = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
    let token = jwt(account, &user, &claims, seconds);
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    fs::write(file, text).unwrap();
}

/// Returns a JWT in the format of NATS: signed by an nkey, valid for some seconds or without expiry.
fn jwt(issuer: &KeyPair, subject: &KeyPair, claims: &Value, seconds: Option<i64>) -> String {
    let now = jiff::Timestamp::now().as_second();
    let mut body = json!({
        "jti": subject.public_key(), "iat": now, "iss": issuer.public_key(), "name": "test", "sub": subject.public_key(), "nats": claims,
    });
    if let Some(seconds) = seconds {
        body["exp"] = json!(now + seconds);
    }
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", encode(&header), encode(&body));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}
