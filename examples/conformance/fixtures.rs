//! What the MCP conformance suite wants a server to offer. It names every tool, prompt and resource, and says what each
//! must answer; they are written here in JSON, as the suite compares it.
#![expect(deprecated, reason = "the suite tests logging and sampling, which later revisions of MCP let go")]

use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams, CompleteResult, ErrorCode,
    ErrorData, GetPromptRequestParams, GetPromptResponse, InputRequiredResult, ListPromptsResult,
    ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, LoggingMessageNotificationParam,
    PaginatedRequestParams, ProgressNotificationParam, ReadResourceRequestParams, ReadResourceResponse,
    RequestStateCodec, RequestStateError, ServerConfig, SetLevelRequestParams, SubscribeRequestParams,
    SubscriptionFilter, Tool, UnsubscribeRequestParams,
};
use rmcp::service::{RequestContext, ServiceError};
use rmcp::{RoleServer, ServerHandler};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// One red pixel.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
/// No sound at all.
const WAV: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA=";

/// What a client of 2026-07-28 can do, in the metadata of each of its requests.
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// What such a client wants logged; nothing, if it does not say.
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// The handler of one session, or of one request without a session.
#[derive(Clone, Debug)]
pub(crate) struct Fixtures {
    states: RequestStateCodec,
}

type Context = RequestContext<RoleServer>;

impl Fixtures {
    /// A handler whose `requestState`s are sealed with a key of the server.
    pub(crate) fn new(key: &[u8]) -> Result<Self, RequestStateError> {
        Ok(Self { states: RequestStateCodec::try_new(key)? })
    }
}

/// A message of the protocol from its JSON.
fn message<T: DeserializeOwned>(json: Value) -> Result<T, ErrorData> {
    serde_json::from_value(json).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

/// A result from its JSON, said to be whole. rmcp leaves that out for clients of revisions that do not know it.
fn whole<T: DeserializeOwned>(mut json: Value) -> Result<T, ErrorData> {
    json["resultType"] = "complete".into();
    message(json)
}

fn content(items: &Value) -> Result<CallToolResponse, ErrorData> {
    whole::<CallToolResult>(json!({ "content": items })).map(Into::into)
}

fn text(text: impl Into<String>) -> Result<CallToolResponse, ErrorData> {
    content(&json!([{ "type": "text", "text": text.into() }]))
}

fn failed(error: &ServiceError) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn form(message: &str, properties: &Value) -> Value {
    let required: Vec<_> = properties.as_object().into_iter().flatten().map(|(name, _)| name).collect();
    json!({
        "mode": "form",
        "message": message,
        "requestedSchema": { "type": "object", "properties": properties, "required": required },
    })
}

fn question(prompt: &str, tokens: u32) -> Value {
    json!({ "messages": [{ "role": "user", "content": { "type": "text", "text": prompt } }], "maxTokens": tokens })
}

fn asks_form(text: &str, properties: &Value) -> Value {
    json!({ "method": "elicitation/create", "params": form(text, properties) })
}

fn asks_name() -> Value {
    asks_form("What is your name?", &json!({ "name": { "type": "string" } }))
}

fn asks_roots() -> Value {
    json!({ "method": "roots/list", "params": {} })
}

fn asks_model(prompt: &str, tokens: u32) -> Value {
    json!({ "method": "sampling/createMessage", "params": question(prompt, tokens) })
}

/// Asks the client for more before the request can be answered (2026-07-28).
fn ask<T: From<InputRequiredResult>>(requests: &Value, state: Option<String>) -> Result<T, ErrorData> {
    let mut result = json!({ "resultType": "input_required", "inputRequests": requests });
    if let Some(state) = state {
        result["requestState"] = state.into();
    }
    message::<InputRequiredResult>(result).map(Into::into)
}

/// What the client answered to `key`, if it is as it should be.
fn answered<'a>(request: &'a CallToolRequestParams, key: &str, field: &str) -> Option<&'a Value> {
    let answer = request.input_responses.as_ref()?.get(key)?;
    answer.get("content").and_then(|content| content.get(field)).or_else(|| answer.get(field))
}

/// The tools that need the client's side of a session: they send requests and notifications of their own.
async fn talk(request: &CallToolRequestParams, context: &Context) -> Option<Result<CallToolResponse, ErrorData>> {
    let argument = |name: &str| {
        let value = request.arguments.as_ref().and_then(|arguments| arguments.get(name));
        value.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let elicit = async |params: Value, say: &str| {
        let asked = context.peer.create_elicitation(message(params)?).await.map_err(|error| failed(&error))?;
        let asked = json!(asked);
        let (action, given) = (asked["action"].as_str().unwrap_or_default(), &asked["content"]);
        text(format!("{say}: action={action}, content={given}"))
    };
    Some(match &*request.name {
        "test_tool_with_logging" => log(context).await,
        "test_tool_with_progress" => progress(context).await,
        "test_sampling" => sample(&argument("prompt"), context).await,
        "test_elicitation" => {
            let answer = json!({ "type": "string", "description": "User's response" });
            let email = json!({ "type": "string", "description": "User's email address" });
            let params = form(&argument("message"), &json!({ "username": answer, "email": email }));
            elicit(params, "User response").await
        }
        "test_elicitation_sep1034_defaults" => {
            let params = form(
                "Please review the defaults",
                &json!({
                    "name": { "type": "string", "default": "John Doe" },
                    "age": { "type": "integer", "default": 30 },
                    "score": { "type": "number", "default": 95.5 },
                    "status": { "type": "string", "enum": ["active", "inactive", "pending"], "default": "active" },
                    "verified": { "type": "boolean", "default": true },
                }),
            );
            elicit(params, "Elicitation completed").await
        }
        "test_elicitation_sep1330_enums" => {
            let plain = json!(["option1", "option2", "option3"]);
            let titled = |kind: &str| {
                json!([
                    { "const": "value1", "title": format!("First {kind}") },
                    { "const": "value2", "title": format!("Second {kind}") },
                    { "const": "value3", "title": format!("Third {kind}") },
                ])
            };
            let legacy = json!({
                "type": "string",
                "enum": ["opt1", "opt2", "opt3"],
                "enumNames": ["Option One", "Option Two", "Option Three"],
            });
            let params = form(
                "Please choose",
                &json!({
                    "untitledSingle": { "type": "string", "enum": plain },
                    "titledSingle": { "type": "string", "oneOf": titled("Option") },
                    "legacyEnum": legacy,
                    "untitledMulti": { "type": "array", "items": { "type": "string", "enum": plain } },
                    "titledMulti": { "type": "array", "items": { "anyOf": titled("Choice") } },
                }),
            );
            elicit(params, "Elicitation completed").await
        }
        _ => return None,
    })
}

async fn log(context: &Context) -> Result<CallToolResponse, ErrorData> {
    for line in ["Tool execution started", "Tool processing data", "Tool execution completed"] {
        let params: LoggingMessageNotificationParam = message(json!({ "level": "info", "data": line }))?;
        context.peer.notify_logging_message(params).await.map_err(|error| failed(&error))?;
        a_moment().await;
    }
    text("Logged three messages")
}

async fn progress(context: &Context) -> Result<CallToolResponse, ErrorData> {
    let token = context.meta.get_progress_token();
    for done in [0, 50, 100] {
        if let Some(token) = token.clone() {
            let params = ProgressNotificationParam::new(token, f64::from(done)).with_total(100.0);
            context.peer.notify_progress(params).await.map_err(|error| failed(&error))?;
        }
        a_moment().await;
    }
    text("Reported progress three times")
}

async fn sample(prompt: &str, context: &Context) -> Result<CallToolResponse, ErrorData> {
    let asked = context.peer.create_message(message(question(prompt, 100))?).await;
    let answer = json!(asked.map_err(|error| failed(&error))?);
    let content = answer["content"].as_array().and_then(|items| items.first()).unwrap_or(&answer["content"]);
    text(format!("LLM response: {}", content["text"].as_str().unwrap_or_default()))
}

impl Fixtures {
    /// The tools of 2026-07-28 that cannot answer before the client has answered them.
    fn ask_back(
        &self,
        request: &CallToolRequestParams,
        context: &Context,
    ) -> Option<Result<CallToolResponse, ErrorData>> {
        let seal = |state: &str| Some(self.states.seal(state.as_bytes()));
        let opened = || request.request_state.as_deref().map(|state| self.states.open(state));
        let state = || opened().and_then(Result::ok).unwrap_or_default();
        let name = answered(request, "user_name", "name").and_then(Value::as_str);
        let has = |key: &str| request.input_responses.as_ref().is_some_and(|answers| answers.contains_key(key));
        let ok = json!({ "ok": { "type": "boolean" } });
        let given = context.meta.0.get(CAPABILITIES);
        let can = |what: &str| given.is_some_and(|capabilities| capabilities.get(what).is_some());
        Some(match &*request.name {
            "test_input_required_result_elicitation" => match name {
                Some(name) => text(format!("Hello, {name}!")),
                None => ask(&json!({ "user_name": asks_name() }), None),
            },
            "test_input_required_result_sampling" => match answered(request, "capital_question", "content") {
                Some(answer) => text(answer.to_string()),
                None => ask(&json!({ "capital_question": asks_model("What is the capital of France?", 100) }), None),
            },
            "test_input_required_result_list_roots" => match answered(request, "client_roots", "roots") {
                Some(roots) => text(roots.to_string()),
                None => ask(&json!({ "client_roots": asks_roots() }), None),
            },
            "test_input_required_result_request_state" | "test_input_required_result_tampered_state" => {
                match opened() {
                    Some(Err(error)) => Err(ErrorData::invalid_params(error.to_string(), None)),
                    Some(Ok(_)) if has("confirm") => text("state-ok"),
                    _ => ask(&json!({ "confirm": asks_form("Please confirm", &ok) }), seal("confirm")),
                }
            }
            "test_input_required_result_multiple_inputs" => {
                if has("user_name") && has("greeting") && has("client_roots") && state() == b"several" {
                    text("All three were answered")
                } else {
                    let requests = json!({
                        "user_name": asks_name(),
                        "greeting": asks_model("Generate a greeting", 50),
                        "client_roots": asks_roots(),
                    });
                    ask(&requests, seal("several"))
                }
            }
            "test_input_required_result_multi_round" => match &state()[..] {
                b"step 1" if has("step1") => {
                    let color = json!({ "color": { "type": "string" } });
                    ask(&json!({ "step2": asks_form("Step 2: What is your favorite color?", &color) }), seal("step 2"))
                }
                b"step 2" if has("step2") => text("Both steps were answered"),
                _ => {
                    let name = json!({ "name": { "type": "string" } });
                    ask(&json!({ "step1": asks_form("Step 1: What is your name?", &name) }), seal("step 1"))
                }
            },
            "test_input_required_result_capabilities" => {
                let mut requests = json!({});
                if can("elicitation") {
                    requests["user_name"] = asks_name();
                }
                if can("sampling") {
                    requests["greeting"] = asks_model("Generate a greeting", 50);
                }
                if can("roots") {
                    requests["client_roots"] = asks_roots();
                }
                ask(&requests, None)
            }
            "test_streaming_elicitation" => ask(&json!({ "user_name": asks_name() }), None),
            "test_missing_capability" if can("sampling") => text("The client can sample"),
            "test_missing_capability" => {
                let data = json!({ "requiredCapabilities": { "sampling": {} } });
                let code = ErrorCode::MISSING_REQUIRED_CLIENT_CAPABILITY;
                Err(ErrorData::new(code, "the client cannot sample", Some(data)))
            }
            _ => return None,
        })
    }
}

/// The tools that simply answer.
fn answer(request: &CallToolRequestParams) -> Result<CallToolResponse, ErrorData> {
    let image = json!({ "type": "image", "data": PNG, "mimeType": "image/png" });
    match &*request.name {
        "test_simple_text" => text("This is a simple text response for testing."),
        "test_image_content" => content(&json!([image])),
        "test_audio_content" => content(&json!([{ "type": "audio", "data": WAV, "mimeType": "audio/wav" }])),
        "test_embedded_resource" => content(&json!([{ "type": "resource", "resource": {
            "uri": "test://embedded-resource",
            "mimeType": "text/plain",
            "text": "This is an embedded resource content.",
        } }])),
        "test_multiple_content_types" => content(&json!([
            { "type": "text", "text": "Multiple content types test:" },
            image,
            { "type": "resource", "resource": {
                "uri": "test://mixed-content-resource",
                "mimeType": "application/json",
                "text": json!({ "test": "data", "value": 123 }).to_string(),
            } },
        ])),
        "test_error_handling" => whole::<CallToolResult>(json!({
            "isError": true,
            "content": [{ "type": "text", "text": "This tool intentionally returns an error for testing" }],
        }))
        .map(Into::into),
        "json_schema_2020_12_tool" | "test_custom_headers" | "test_reconnection" => text("Done"),
        _ => Err(ErrorData::invalid_params(format!("no tool is called {}", request.name), None)),
    }
}

fn tools() -> Value {
    let plain = [
        ("test_simple_text", "Answers with a text"),
        ("test_image_content", "Answers with an image"),
        ("test_audio_content", "Answers with a sound"),
        ("test_embedded_resource", "Answers with a resource"),
        ("test_multiple_content_types", "Answers with a text, an image and a resource"),
        ("test_tool_with_logging", "Logs three messages on its way"),
        ("test_tool_with_progress", "Reports progress three times on its way"),
        ("test_error_handling", "Fails"),
        ("test_elicitation_sep1034_defaults", "Asks the user, with a default for each kind of field"),
        ("test_elicitation_sep1330_enums", "Asks the user, with each kind of choice"),
        ("test_reconnection", "Answers; rmcp has no way to close the stream before"),
        ("test_logging_tool", "Logs, if the request says that it wants to hear of it"),
        ("test_missing_capability", "Needs a client that can sample"),
        ("test_streaming_elicitation", "Asks the user before it answers"),
        ("test_input_required_result_elicitation", "Asks for a name before it answers"),
        ("test_input_required_result_sampling", "Asks the model before it answers"),
        ("test_input_required_result_list_roots", "Asks for the roots before it answers"),
        ("test_input_required_result_request_state", "Asks, and wants its state back"),
        ("test_input_required_result_tampered_state", "Asks, and wants its state back unchanged"),
        ("test_input_required_result_multiple_inputs", "Asks for three things at once"),
        ("test_input_required_result_multi_round", "Asks twice"),
        ("test_input_required_result_capabilities", "Asks only for what the client can do"),
    ];
    let tool = |name: &str, description: &str, schema: Value| json!({ "name": name, "description": description, "inputSchema": schema });
    let with =
        |name: &str, schema: Value| json!({ "type": "object", "properties": { name: schema }, "required": [name] });
    let mut tools: Vec<_> = plain
        .iter()
        .map(|(name, description)| tool(name, description, json!({ "type": "object", "properties": {} })))
        .collect();
    tools.push(tool("test_sampling", "Asks the model", with("prompt", json!({ "type": "string" }))));
    tools.push(tool("test_elicitation", "Asks the user", with("message", json!({ "type": "string" }))));
    let region = json!({ "type": "string", "x-mcp-header": "Region" });
    tools.push(tool("test_custom_headers", "Has an argument that is also a header", with("region", region)));
    tools.push(tool("json_schema_2020_12_tool", "Has a schema of many kinds of words", rich_schema()));
    json!(tools)
}

/// The schema the suite looks for, word by word.
fn rich_schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": { "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": { "street": { "type": "string" }, "city": { "type": "string" } },
        } },
        "properties": {
            "name": { "type": "string" },
            "address": { "$ref": "#/$defs/address" },
            "contactMethod": { "type": "string", "enum": ["phone", "email"] },
            "phone": { "type": "string" },
            "email": { "type": "string" },
        },
        "allOf": [{ "anyOf": [{ "required": ["phone"] }, { "required": ["email"] }] }],
        "if": { "properties": { "contactMethod": { "const": "phone" } }, "required": ["contactMethod"] },
        "then": { "required": ["phone"] },
        "else": { "required": ["email"] },
        "additionalProperties": false,
    })
}

fn prompts() -> Value {
    let argument = |name: &str| json!({ "name": name, "description": "For the test", "required": true });
    json!([
        { "name": "test_simple_prompt", "description": "Has no arguments" },
        { "name": "test_prompt_with_arguments", "description": "Has two arguments",
          "arguments": [argument("arg1"), argument("arg2")] },
        { "name": "test_prompt_with_embedded_resource", "description": "Embeds a resource",
          "arguments": [argument("resourceUri")] },
        { "name": "test_prompt_with_image", "description": "Shows an image" },
        { "name": "test_input_required_result_prompt", "description": "Asks before it answers" },
    ])
}

impl ServerHandler for Fixtures {
    fn get_info(&self) -> ServerConfig {
        let config = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {
                "completions": {}, "logging": {}, "prompts": {}, "resources": { "subscribe": true }, "tools": {},
            },
            "serverInfo": { "name": "conformance", "version": "1.0.0" },
        });
        serde_json::from_value(config).unwrap_or_default()
    }

    async fn call_tool(&self, request: CallToolRequestParams, context: Context) -> Result<CallToolResponse, ErrorData> {
        if request.name == "test_logging_tool" {
            return if context.meta.0.contains_key(LOG_LEVEL) { log(&context).await } else { text("Not logged") };
        }
        if let Some(answer) = talk(&request, &context).await {
            return answer;
        }
        self.ask_back(&request, &context).unwrap_or_else(|| answer(&request))
    }

    async fn list_tools(&self, _: Option<PaginatedRequestParams>, _: Context) -> Result<ListToolsResult, ErrorData> {
        whole(json!({ "tools": tools() }))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        let tools: Vec<Tool> = serde_json::from_value(tools()).ok()?;
        tools.into_iter().find(|tool| tool.name == name)
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListPromptsResult, ErrorData> {
        whole(json!({ "prompts": prompts() }))
    }

    async fn get_prompt(&self, request: GetPromptRequestParams, _: Context) -> Result<GetPromptResponse, ErrorData> {
        let argument = |name: &str| {
            let value = request.arguments.as_ref().and_then(|arguments| arguments.get(name));
            value.and_then(Value::as_str).unwrap_or_default()
        };
        let says = |content: Value| json!({ "role": "user", "content": content });
        let text = |text: &str| says(json!({ "type": "text", "text": text }));
        let messages = match &*request.name {
            "test_simple_prompt" => json!([text("This is a simple prompt for testing.")]),
            "test_prompt_with_arguments" => {
                let (one, two) = (argument("arg1"), argument("arg2"));
                json!([text(&format!("Prompt with arguments: arg1='{one}', arg2='{two}'"))])
            }
            "test_prompt_with_embedded_resource" => {
                let resource = json!({
                    "uri": argument("resourceUri"),
                    "mimeType": "text/plain",
                    "text": "Embedded resource content for testing.",
                });
                let resource = says(json!({ "type": "resource", "resource": resource }));
                json!([resource, text("Please process the embedded resource above.")])
            }
            "test_prompt_with_image" => {
                let image = says(json!({ "type": "image", "data": PNG, "mimeType": "image/png" }));
                json!([image, text("Please analyze the image above.")])
            }
            "test_input_required_result_prompt" => {
                if request.input_responses.is_none() {
                    let properties = json!({ "context": { "type": "string" } });
                    let form = asks_form("What context should the prompt use?", &properties);
                    return ask(&json!({ "user_context": form }), None);
                }
                json!([text("With the context that was given.")])
            }
            name => return Err(ErrorData::invalid_params(format!("no prompt is called {name}"), None)),
        };
        Ok(GetPromptResponse::Complete(whole(json!({ "messages": messages }))?))
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListResourcesResult, ErrorData> {
        let resource =
            |uri: &str, kind: &str| json!({ "uri": uri, "name": uri, "description": "For the test", "mimeType": kind });
        whole(json!({ "resources": [
            resource("test://static-text", "text/plain"),
            resource("test://static-binary", "image/png"),
            resource("test://watched-resource", "text/plain"),
        ] }))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        whole(json!({ "resourceTemplates": [{
            "uriTemplate": "test://template/{id}/data",
            "name": "template",
            "description": "For the test",
            "mimeType": "application/json",
        }] }))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: Context,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let uri = &request.uri;
        let id = uri.strip_prefix("test://template/").and_then(|rest| rest.strip_suffix("/data"));
        let contents = match (uri.as_str(), id) {
            (_, Some(id)) => {
                let data = json!({ "id": id, "templateTest": true, "data": format!("Data for ID: {id}") });
                json!({ "uri": uri, "mimeType": "application/json", "text": data.to_string() })
            }
            ("test://static-text", _) => json!({
                "uri": uri,
                "mimeType": "text/plain",
                "text": "This is the content of the static text resource.",
            }),
            ("test://static-binary", _) => json!({ "uri": uri, "mimeType": "image/png", "blob": PNG }),
            ("test://watched-resource", _) => json!({ "uri": uri, "mimeType": "text/plain", "text": "Watched." }),
            _ => return Err(ErrorData::invalid_params("Resource not found", Some(json!({ "uri": uri })))),
        };
        Ok(ReadResourceResponse::Complete(whole(json!({ "contents": [contents] }))?))
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn subscribe(&self, _: SubscribeRequestParams, _: Context) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn unsubscribe(&self, _: UnsubscribeRequestParams, _: Context) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn set_level(&self, _: SetLevelRequestParams, _: Context) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn complete(&self, _: CompleteRequestParams, _: Context) -> Result<CompleteResult, ErrorData> {
        whole(json!({ "completion": { "values": ["paris", "park", "party"], "total": 150, "hasMore": false } }))
    }
}
