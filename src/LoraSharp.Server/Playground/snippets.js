// The request that the page would send now, as what a reader can take away.

const address = path => new URL(path, document.baseURI).href;

export function asCurl({ path, body }) {
  return `curl ${address(path)} -H 'Content-Type: application/json' -H 'Authorization: Bearer KEY' -d '${JSON.stringify(body).replaceAll("'", "'\\''")}'`;
}

/** With OpenAI's own client; a request for a completion with plain HTTP, which that client has no more. */
export function asCSharp({ path, body }) {
  if (!body.messages) {
    return [
      "using System.Net.Http.Json;",
      "using System.Text.Json.Nodes;",
      "",
      "using var http = new HttpClient();",
      `HttpResponseMessage answer = await http.PostAsJsonAsync("${address(path)}", JsonNode.Parse("""${JSON.stringify(body)}"""));`,
      "Console.WriteLine((string?)JsonNode.Parse(await answer.Content.ReadAsStringAsync())![\"choices\"]![0]![\"text\"]);",
    ].join("\n");
  }

  const kinds = { system: "SystemChatMessage", user: "UserChatMessage", assistant: "AssistantChatMessage" };
  const known = { temperature: "Temperature", top_p: "TopP", max_tokens: "MaxOutputTokenCount", frequency_penalty: "FrequencyPenalty", presence_penalty: "PresencePenalty" };
  const settings = Object.entries(known).filter(([key]) => body[key] !== undefined).map(([key, name]) => `${name} = ${body[key]}${key === "max_tokens" ? "" : "f"}`);
  return [
    "// dotnet add package OpenAI",
    "using System.ClientModel;",
    "using OpenAI;",
    "using OpenAI.Chat;",
    "",
    `var client = new ChatClient(${JSON.stringify(body.model)}, new ApiKeyCredential("KEY"), new OpenAIClientOptions { Endpoint = new Uri("${address("v1")}") });`,
    "ChatCompletion answer = await client.CompleteChatAsync(",
    "[",
    ...body.messages.map(m => `    new ${kinds[m.role]}(${JSON.stringify(m.content)}),`),
    `], new ChatCompletionOptions { ${settings.join(", ")} });`,
    "Console.WriteLine(answer.Content[0].Text);",
  ].join("\n");
}
