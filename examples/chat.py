"""A chat over gRPC: one answer whole, and one as a stream.

Needs only grpcio and the generated modules `inferd.v1`.
"""

import grpc

from inferd.v1 import chat_pb2, chat_pb2_grpc, message_pb2

request = chat_pb2.CreateChatCompletionRequest(
    model="smollm2",
    messages=[
        message_pb2.Message(
            role=message_pb2.ROLE_USER,
            content=[message_pb2.ContentPart(text="What is the capital of France?")],
        )
    ],
    max_tokens=32,
    temperature=0,
)

with grpc.insecure_channel("127.0.0.1:50051") as channel:
    chat = chat_pb2_grpc.ChatServiceStub(channel)
    print(chat.CreateChatCompletion(request, timeout=60).choices[0].message.content)
    for chunk in chat.StreamChatCompletion(request, timeout=60):
        print(chunk.choices[0].delta.content, end="", flush=True)
    print()
