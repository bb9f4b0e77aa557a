"""Semi-online DPO on Llama-3.1-8B-Instruct and 8 GPUs: a weight sync every few optimiser steps."""
