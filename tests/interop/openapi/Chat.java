// A client of openapi-generator's Java. Prints what it saw. Judges nothing: the tests do.
import java.util.List;
import java.util.Map;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.ChatServiceApi;
import org.openapitools.client.model.*;

public class Chat {
  private final ChatServiceApi chat;

  Chat(String url) {
    chat = new ChatServiceApi(new ApiClient().setBasePath(url));
  }

  static CreateChatCompletionRequest ask(String text) {
    Message message = new Message().role(Role.ROLE_USER).content(new MessageContent(new ContentPart(text)));
    return new CreateChatCompletionRequest().model("small").addMessagesItem(message);
  }

  List<Object> whole() throws ApiException {
    ChatCompletion answer = chat.chatServiceCreateChatCompletion(ask("Say hello."), 30.0, null, "a-request");
    return List.of(answer.getChoices().get(0).getMessage().getContent(), answer.getUsage().getCompletionTokens());
  }

  String streamed() throws Exception {
    String events = chat.chatServiceStreamChatCompletion(ask("Say hello."), null, null, null);
    StringBuilder text = new StringBuilder();
    for (String line : events.split("\n")) {
      if (!line.startsWith("data: ") || line.equals("data: [DONE]")) continue;
      ChatCompletionChunk chunk = ChatCompletionChunk.fromJson(line.substring("data: ".length()));
      for (ChatChunkChoice choice : chunk.getChoices()) {
        if (choice.getDelta().getContent() != null) text.append(choice.getDelta().getContent());
      }
    }
    return text.toString();
  }

  List<Object> called() throws ApiException {
    FunctionTool function = new FunctionTool().name("get_weather").parameters(Map.of("type", "object"));
    CreateChatCompletionRequest request =
        ask("Weather in Paris?").addToolsItem(new Tool(new ToolFunction().function(function)));
    AssistantMessage message =
        chat.chatServiceCreateChatCompletion(request, null, null, null).getChoices().get(0).getMessage();
    ToolCallOutputFunction call = message.getToolCalls().get(0).getToolCallOutputFunction();
    return List.of(call.getType().getValue(), call.getFunction().getName());
  }

  List<Object> refused() throws Exception {
    try {
      chat.chatServiceCreateChatCompletion(ask("Say hello.").temperature(3.0), null, null, null);
    } catch (ApiException error) {
      ErrorObject told = ErrorResponse.fromJson(error.getResponseBody()).getError();
      return List.of(error.getCode(), told.getCode(), told.getParam());
    }
    throw new IllegalStateException("there is no error");
  }

  public static void main(String[] arguments) throws Exception {
    Chat client = new Chat(arguments[0]);
    Map<String, Object> seen =
        Map.of(
            "whole", client.whole(),
            "streamed", client.streamed(),
            "called", client.called(),
            "refused", client.refused());
    System.out.println(new com.google.gson.Gson().toJson(seen));
    // okhttp keeps threads that would hold the process for a minute.
    System.exit(0);
  }
}
