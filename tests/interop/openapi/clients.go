// Clients of openapi-generator's Go and of oapi-codegen. Prints what they saw. Judges nothing: the tests do.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"inferd.test/clients/codegen"
	"inferd.test/clients/generator"
)

type topics map[string]any

// textOf reads the contents of the chunks of a stream of events.
func textOf(events io.Reader) string {
	text := ""
	lines := bufio.NewScanner(events)
	for lines.Scan() {
		data, isData := strings.CutPrefix(lines.Text(), "data: ")
		if !isData || data == "[DONE]" {
			continue
		}
		var chunk codegen.ChatCompletionChunk
		check(json.Unmarshal([]byte(data), &chunk))
		for _, choice := range chunk.Choices {
			if choice.Delta.Content != nil {
				text += *choice.Delta.Content
			}
		}
	}
	check(lines.Err())
	return text
}

func withGenerator(url string) topics {
	configuration := generator.NewConfiguration()
	configuration.Servers = generator.ServerConfigurations{{URL: url}}
	chat := generator.NewAPIClient(configuration).ChatServiceAPI
	background := context.Background()
	ask := func(text string) generator.CreateChatCompletionRequest {
		content := generator.StringAsContentPart(&text)
		message := generator.NewMessage(generator.ROLE_USER)
		message.SetContent(generator.MessageContent{ContentPart: &content})
		request := generator.NewCreateChatCompletionRequest("small")
		request.SetMessages([]generator.Message{*message})
		return *request
	}

	answer, _, err := chat.ChatServiceCreateChatCompletion(background).
		CreateChatCompletionRequest(ask("Say hello.")).XRequestTimeout(30).Execute()
	check(err)
	events, _, err := chat.ChatServiceStreamChatCompletion(background).
		CreateChatCompletionRequest(ask("Say hello.")).Execute()
	check(err)

	weather := ask("Weather in Paris?")
	function := generator.NewToolFunction(*generator.NewFunctionTool("get_weather"))
	weather.SetTools([]generator.Tool{generator.ToolFunctionAsTool(function)})
	called, _, err := chat.ChatServiceCreateChatCompletion(background).CreateChatCompletionRequest(weather).Execute()
	check(err)
	call := called.Choices[0].Message.ToolCalls[0].ToolCallOutputFunction

	hot := ask("Say hello.")
	hot.SetTemperature(3)
	_, response, err := chat.ChatServiceCreateChatCompletion(background).CreateChatCompletionRequest(hot).Execute()
	var refused *generator.GenericOpenAPIError
	if !errors.As(err, &refused) {
		check(fmt.Errorf("no error of the API: %w", err))
	}
	told := refused.Model().(generator.ErrorResponse).Error
	return topics{
		"whole":    []any{answer.Choices[0].Message.GetContent(), answer.Usage.CompletionTokens},
		"streamed": textOf(strings.NewReader(events)),
		"called":   []any{call.Type, call.Function.Name},
		"refused":  []any{response.StatusCode, told.Code, told.Param.Get()},
	}
}

func withCodegen(url string) topics {
	client, err := codegen.NewClientWithResponses(url)
	check(err)
	background := context.Background()
	ask := func(text string) codegen.CreateChatCompletionRequest {
		var part codegen.ContentPart
		check(part.FromContentPart0(text))
		var content codegen.Message_Content
		check(content.FromContentPart(part))
		messages := []codegen.Message{{Role: codegen.ROLEUSER, Content: &content}}
		return codegen.CreateChatCompletionRequest{Model: "small", Messages: &messages}
	}
	create := func(request codegen.CreateChatCompletionRequest) *codegen.ChatServiceCreateChatCompletionResponse {
		timeout := 30.0
		parameters := codegen.ChatServiceCreateChatCompletionParams{XRequestTimeout: &timeout}
		response, err := client.ChatServiceCreateChatCompletionWithResponse(background, &parameters, request)
		check(err)
		return response
	}

	answer := create(ask("Say hello.")).JSON200
	// The plain client returns the response before it has ended.
	stream, err := client.ClientInterface.ChatServiceStreamChatCompletion(background, nil, ask("Say hello."))
	check(err)
	defer stream.Body.Close()

	weather := ask("Weather in Paris?")
	var tool codegen.Tool
	check(tool.FromToolFunction(codegen.ToolFunction{Function: codegen.FunctionTool{Name: "get_weather"}}))
	weather.Tools = &[]codegen.Tool{tool}
	calls := *create(weather).JSON200.Choices[0].Message.ToolCalls
	call, err := calls[0].AsToolCallOutputFunction()
	check(err)

	hot, temperature := ask("Say hello."), 3.0
	hot.Temperature = &temperature
	refused := create(hot)
	return topics{
		"whole":    []any{answer.Choices[0].Message.Content, answer.Usage.CompletionTokens},
		"streamed": textOf(stream.Body),
		"called":   []any{call.Type, call.Function.Name},
		"refused":  []any{refused.StatusCode(), refused.JSON400.Error.Code, refused.JSON400.Error.Param},
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	seen := map[string]topics{"generator": withGenerator(os.Args[1]), "codegen": withCodegen(os.Args[1])}
	check(json.NewEncoder(os.Stdout).Encode(seen))
}
