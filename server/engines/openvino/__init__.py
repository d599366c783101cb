"""An engine on OpenVINO: prompts and many users' blends in one batch, under the same scheduler as llama.cpp's."""
