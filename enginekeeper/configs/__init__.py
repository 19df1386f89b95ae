"""The two kinds of `config.json`, Hugging Face's and TensorRT-LLM's, as typed values."""
